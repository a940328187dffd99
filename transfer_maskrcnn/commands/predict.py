"""The command line ``predict``: a trained model on images, folders, globs or a video."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transfer_maskrcnn.cli import FAILED, parse_arguments, run_tool, tool_parser, whole_number
from transfer_maskrcnn.errors import ConfigError

EXAMPLES = """
Written into --output DIR (default: --overlay --json):
  overlays/NAME.jpg         the image with outlines, classes and scores
  predictions.json          COCO results, images and classes numbered from 1;
                            images.json says which is which, as a COCO dataset
  masks/NAME/001_cat_0.93.png   one instance each, the best first
  labelme/NAME.json         to correct by hand, and to train on
  A video gives overlays/NAME.mp4; its images in the json are its frames.
NAME is the file's, with folders in front where two files have the same.
A folder stands for the images directly in it.

Examples:
  a finished run's model on a folder of images:
    transfer-maskrcnn predict --weights output/mine --input photos --output found
  any trained file, images at any depth, one class judged more strictly:
    transfer-maskrcnn predict --weights configs/shapes/shapes_source.pth \\
      --config-file configs/shapes/mask_rcnn_source.yaml \\
      --input 'photos/**/*.png' --output found --masks \\
      --score 0.4 --class-score ring=0.8
  a video, on the CPU:
    transfer-maskrcnn predict --config-file output/mine/config.yaml \\
      --input clip.mp4 --output found MODEL.DEVICE cpu
Exit status: 0; 1 for an error, or where an image could not be read (the
others are predicted on); 130 after Ctrl-C, with the files of what was done.
After that, a kill or a full disk, the same command goes on where it was.
"""
_KINDS = {
    "overlay": "write the images with what was found drawn on them",
    "json": "write predictions.json and images.json",
    "masks": "write a PNG for each instance",
    "labelme": "write a labelme json for each image, with polygons to edit",
    "labelme_masks": "write it with masks: exact, but without points to move",
}


def predict_tool() -> None:
    """Parse the command line and do what it asks."""
    run_tool(
        main,
        after_interrupt="--output holds whole files of what was done; the same command goes on",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status.

    Raises:
        TransferError: what is wrong with the input, the config or the model.
    """
    args = parse_arguments(_parser(), argv)
    # what is heavy is imported once the command line is understood
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.inference.inputs import Video, find_inputs, is_video
    from transfer_maskrcnn.inference.load import (
        build_trained,
        command_of,
        config_of,
        find_weights,
        predict,
    )
    from transfer_maskrcnn.inference.outputs import (
        JSON,
        LABELME,
        LABELME_MASKS,
        OVERLAY,
        check_output,
    )

    kinds = [kind for kind in _KINDS if getattr(args, kind)] or [OVERLAY, JSON]
    paths = find_inputs(args.input, args.output)
    source = Video(paths[0]) if is_video(paths[0]) else paths
    if source is not paths and {LABELME, LABELME_MASKS}.intersection(kinds):
        raise ConfigError("--labelme: labelme opens images; save the video's frames as images")
    stated = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    weights, file = args.weights or stated or "", args.config_file
    cfg = load_config(file, args.opts) if file else config_of(weights, args.opts)
    weights = weights or find_weights(cfg, file)
    scores = args.score, dict(args.class_score)
    command = command_of(cfg, weights, scores, kinds, paths)
    check_output(args.output, command)
    model = build_trained(cfg, weights, score=args.score, class_scores=scores[1])
    options = {"kinds": kinds, "command": command, "batch": args.batch}
    found = predict(model, source, args.output, **options, report=_report)
    print(found.summary("image" if source is paths else "frame"))
    print(f"Written to {args.output}")
    return FAILED if found.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("Find objects in images or a video with a trained model.", EXAMPLES)
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="of the model, or a run's config.yaml; default: what --weights carries",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a run's folder, or a trained file; default: what the config's OUTPUT_DIR holds, "
        "else MODEL.WEIGHTS",
    )
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="images, folders, globs in quotes, or one video",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="made if needed")
    for kind, text in _KINDS.items():
        parser.add_argument(f"--{kind.replace('_', '-')}", action="store_true", help=text)
    parser.add_argument(
        "--score", type=float, default=0.5, help="leave out what scores less (default 0.5)"
    )
    parser.add_argument(
        "--class-score",
        type=_class_score,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=SCORE",
        help="another --score for a class",
    )
    parser.add_argument(
        *("--batch",),
        type=partial(whole_number, 1),
        default=1,
        metavar="N",
        help="images at a time (default 1)",
    )
    return parser


def _class_score(text: str) -> tuple[str, float]:
    name, _, score = text.rpartition("=")
    try:
        if name:
            return name, float(score)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=SCORE, for example cat=0.7")


def _report(problem: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"left out: {problem}", file=sys.stderr)
