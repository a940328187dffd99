"""The command line ``pseudo-label``: base objects that nobody annotated, as COCO json."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from transfer_maskrcnn.cli import parse_arguments, run_tool, tool_parser, typed
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.text import plural, wrapped

EXAMPLES = """
Written into --output DIR, a new folder:
  annotations.json   COCO json of DATASETS.TRAIN with all classes of the
                     extended model: its own annotations, and the source
                     model's sure detections, which have a "score"
  doubtful.json      the doubtful detections alone, to move over by hand:
                     what stays there is background for who trains on the
                     other; only training on the original, with
                     PSEUDO_LABELS.ENABLED True, leaves it undecided
  catalog.yaml       for DATASETS.CATALOG: declares the dataset DIR
Images stay where they are. Those without an annotation of their own are left
out, as in training (DATALOADER.FILTER_EMPTY_ANNOTATIONS False takes them in).
What was labelled is kept, and not computed again.

Examples:
  transfer-maskrcnn pseudo-label --output labelled \\
    --config-file configs/recipes/unannotated_class.yaml
  look at it:   transfer-maskrcnn check --catalog labelled/catalog.yaml \\
                  --html labelled.html
  correct it in labelme:  ... --catalog labelled/catalog.yaml \\
                  --convert labelme by_hand
Exit status: 0; 1 for an error; 130 after Ctrl-C (the same command goes on).
"""


def pseudo_label_tool() -> None:
    """Parse the command line, label, and write the files."""
    run_tool(main, "what was labelled until then is kept: the same command goes on from there")


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Label the source model's classes on training images that lack them.", EXAMPLES
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="with MODEL.TRANSFER.EXTEND True"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="a new folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """
    Args:
        argv: as on the command line; None takes it from there.

    Raises:
        TransferError: what is wrong with the config, the dataset or the weights.
    """
    args = parse_arguments(_parser(), argv)
    from detectron2.data import DatasetCatalog
    from tabulate import tabulate

    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.data.export.base import new_folder
    from transfer_maskrcnn.data.registry import register_catalogs
    from transfer_maskrcnn.engine.setup import fit_config
    from transfer_maskrcnn.incremental.pseudo_labels import describe, write_labels

    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED = True
    if not cfg.MODEL.MASK_ON:
        raise ConfigError(
            "MODEL.MASK_ON is False: boxes alone cannot be written as an instance-segmentation "
            "dataset. Train with MODEL.TRANSFER.PSEUDO_LABELS.ENABLED True: that takes boxes"
        )
    register_catalogs(cfg.DATASETS.CATALOG)
    name = args.output.expanduser().resolve().name
    if name in DatasetCatalog:
        raise ConfigError(
            f"--output {args.output}: its catalog declares a dataset of the folder's name, but "
            f"{name!r} is registered already; choose another folder"
        )
    with new_folder(args.output) as folder:
        spec = fit_config(cfg)
        summary = write_labels(spec.resolve(cfg), spec, folder, name)
    rows = [
        [name, f"{c['score']:.2f}", c["objects"]]
        for name, c in summary["classes"].items()
        if c["objects"]
    ]
    if rows:
        print(tabulate(rows, ["class", "score from", "objects"], disable_numparse=True))
    print(wrapped(describe(summary, "doubtful.json has"), indent=""))
    if summary["left_out"]:
        left_out = plural(summary["left_out"], "image")
        print(wrapped(f"{left_out} without an annotation of their own: left out, as in training"))
    print(
        f"Written to {args.output}\n"
        "next: look at it, move what is right of doubtful.json into annotations.json\n"
        "(what stays behind is background), correct the rest, and train on it:\n"
        f"  {typed('check')} --catalog "
        f"{shlex.quote(str(args.output / 'catalog.yaml'))}"
    )
