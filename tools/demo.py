#!/usr/bin/env python3
"""The one command on generated pictures, then what weights are worth there.

First a folder of pictures becomes a model, as your own photos would; then the
same model is trained from weights and from nothing, with the same images and
budget.

Example:
    .venv/bin/python tools/demo.py
"""

import os
from pathlib import Path

from transfer_maskrcnn.cli import run_tool, tool_parser, typed

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/shapes/mask_rcnn_transfer.yaml"
WEIGHTS = "configs/shapes/shapes_source.pth"
VARIANTS = ("from_scratch", "all_but_predictors")
OUTPUT = Path("output") / "demo"


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many; default: 1")
    args = parser.parse_args()
    from transfer_maskrcnn import finetune
    from transfer_maskrcnn.data.shapes import prepare_shapes
    from transfer_maskrcnn.study.design import make_design
    from transfer_maskrcnn.study.study import run_study
    from transfer_maskrcnn.study.words import study_text

    os.chdir(ROOT)  # the config names its weights relative to the project
    os.environ["DETECTRON2_DATASETS"] = str(ROOT / "datasets")
    prepare_shapes(ROOT / "datasets", ("train", "val"))
    pictures = prepare_shapes(OUTPUT / "pictures", ("train", "val"))
    print(f"{typed('finetune')} {pictures} --weights {WEIGHTS} --time 2m", flush=True)
    finetune(pictures, OUTPUT / "finetune", WEIGHTS, "2m")
    print("\nFine-tuning on 48 pictures of three shapes, from random weights")
    print("(from_scratch) and from weights that know eight other shapes")
    print("(all_but_predictors): same model, images and budget. Runs that have finished are")
    print("not run again; they are in output/demo.", flush=True)
    design = make_design(CONFIG, ["TEST.EVAL_ITERS", "[0, 25, 50]"], VARIANTS, [1.0], args.seeds)
    found = run_study(design, OUTPUT)
    print(study_text(found, OUTPUT))
    if found["comparisons"][0]["verdict"] == "better":
        print("\nBoth copied the layers, the structure; the difference is what the weights know.")
    print(f"\nnext: your own photos:\n  {typed('finetune')} FOLDER")


if __name__ == "__main__":
    run_tool(main, "the same command goes on")
