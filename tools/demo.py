#!/usr/bin/env python3
"""The seed question on generated data: the same model, images and budget, with and without weights.

Example:
    python tools/demo.py
"""

import argparse
import os
import sys
from pathlib import Path

from tabulate import tabulate

from transfer_maskrcnn.data.shapes import prepare_shapes
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.report.pictures import comparison_picture
from transfer_maskrcnn.study.arms import ArmResult, run_arm

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("transfer", "scratch")


def run(seeds: list[int], output: Path) -> list[ArmResult]:
    datasets = ROOT / "datasets"
    prepare_shapes(datasets, ("train", "val"))
    os.environ["DETECTRON2_DATASETS"] = str(datasets)
    os.chdir(ROOT)  # the configs name their weights relative to the project
    results = []
    for seed in seeds:
        for arm in ARMS:
            config = ROOT / "configs" / "shapes" / f"mask_rcnn_{arm}.yaml"
            folder = output / f"{arm}_seed{seed}"
            print(f"{arm}, seed {seed}: training, log in {folder.relative_to(ROOT)}", flush=True)
            results.append(run_arm(arm, seed, ROOT / "tools" / "train_net.py", config, folder))
            write_json(output / "summary.json", [result.as_dict() for result in results])
    return results


def draw(seed: int, output: Path) -> Path:
    folders = {arm: output / f"{arm}_seed{seed}" / "inference" / "shapes_val" for arm in ARMS}
    picture = output / "predictions.png"
    comparison_picture(
        folders["transfer"] / "shapes_val_ground_truth.json",
        {arm: folder / "coco_instances_results.json" for arm, folder in folders.items()},
        picture,
    )
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    args = parser.parse_args()
    output = ROOT / "output" / "demo"
    print("Fine-tuning on 48 pictures of three shapes, from weights that know eight other")
    print("shapes (transfer) and from random weights (scratch): same model, same budget.")
    results = run(args.seeds, output)
    picture = draw(args.seeds[0], output)
    rows = [[r.arm, r.seed, r.box_ap, r.mask_ap, r.seconds] for r in results]
    print()
    print(tabulate(rows, ["start", "seed", "box AP", "mask AP", "seconds"], floatfmt=".1f"))
    print("\nCopying the layers copied the structure; the difference is what the weights know.")
    print(f"Figures:  {(output / 'summary.json').relative_to(ROOT)}")
    print(f"Pictures: {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except TransferError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
