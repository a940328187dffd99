"""The command line ``compare``."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from transfer_maskrcnn.cli import parse_arguments, run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError

DEFAULT_VARIANTS = "from_scratch,backbone,all_but_predictors"
EXAMPLES = """
Variants, from least to most: random_init, backbone, backbone_fpn,
  backbone_fpn_rpn, all_but_predictors, class_rows; and from_scratch.
random_init is the layers without weights, as the config has them; from_scratch
the same with what training from nothing needs. Others take MODEL.WEIGHTS, or a
file of their own: backbone@backbone.pkl.

Examples:
  transfer-maskrcnn compare \\
    --config-file configs/shapes/mask_rcnn_transfer.yaml \\
    --output-dir output/study
  ... --variants from_scratch,backbone@imagenet.pkl,all_but_predictors --seeds 5
  ... --fractions 0.25,1
The same command goes on with a study that was cut off; more variants, seeds or
fractions add to it. Exit status: 0, or 1 for an error.
"""


def compare_inits() -> None:
    """Parse the command line, then run or go on with the study."""
    args = parse_arguments(_parser())
    run_tool(partial(_main, args), "the same command goes on with it")


def _main(args: argparse.Namespace) -> None:
    from transfer_maskrcnn.study.design import make_design
    from transfer_maskrcnn.study.runner import visible_gpus
    from transfer_maskrcnn.study.study import run_study
    from transfer_maskrcnn.study.words import study_text

    if not 0 <= args.num_gpus <= len(visible_gpus()):
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but torch sees {len(visible_gpus())} CUDA devices; "
            "without the option, one run follows the other, wherever MODEL.DEVICE says"
        )
    design = make_design(
        args.config_file, args.opts, args.variants.split(","), _numbers(args.fractions), args.seeds
    )
    found = run_study(design, args.output_dir, args.num_gpus)
    print(study_text(found, args.output_dir))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions {text}: expected numbers like 0.25,1.0") from None


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Train one model from several starting points and say what each was worth.", EXAMPLES
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="as for training")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--variants", default=DEFAULT_VARIANTS, help=f"default: {DEFAULT_VARIANTS}")
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: 3")
    parser.add_argument(
        "--fractions", default="1", help="shares of the training images; default: 1 (all)"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=0, help="runs at a time, a GPU each; default: one run"
    )
    return parser
