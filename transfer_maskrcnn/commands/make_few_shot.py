"""The command line ``few-shot``: K instances of each class, for each K and seed."""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transfer_maskrcnn.cli import progress, run_tool, tool_parser, typed, whole_number
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.text import plural, quoted, wrapped

CATALOG = "catalog.yaml"
EXAMPLES = """
Written into --output DIR, a new folder:
  5shot_seed0.json   COCO json of 5 instances of each class, for each --shots
                     and --seeds; of one seed, fewer shots lie within more
  catalog.yaml       for DATASETS.CATALOG: declares them as DIR_5shot_seed0 ...,
                     and what --catalog declares
Images stay where they are. Other objects in them lose their annotation.

Examples:
  novel classes:   transfer-maskrcnn few-shot shapes_extend_train \\
                   --shots 1 5 10 --seeds 0 1 2 3 4 --output few
  base and novel ones, 5 of each (TFA's second stage):
                 transfer-maskrcnn few-shot shapes_source_train \\
                   shapes_extend_train --shots 5 --seeds 0 --output balanced
  your own data: transfer-maskrcnn few-shot my_train --catalog my.yaml \\
                   --classes cat dog --shots 5 --seeds 0 --output few
Exit status: 0; 1 for an error; 130 after Ctrl-C.
"""


def make_few_shot_tool() -> None:
    """Parse the command line and write the subsets."""
    run_tool(make_few_shot, "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("Write few-shot subsets: K instances of each class, by seed.", EXAMPLES)
    parser.add_argument("names", nargs="+", metavar="NAME", help="datasets, or folders of some")
    parser.add_argument(
        "--shots", nargs="+", type=partial(whole_number, 1), required=True, metavar="K"
    )
    parser.add_argument(
        *("--seeds",),
        nargs="+",
        type=partial(whole_number, 0),
        default=[0],
        metavar="SEED",
        help="default: 0",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        *("--catalog",),
        action="append",
        metavar="FILE",
        help="YAML that declares datasets of your own; may be repeated",
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="CLASS", help="default: all of the datasets"
    )
    return parser


def make_few_shot(argv: Sequence[str] | None = None) -> None:
    """Write a COCO json for each number of shots and seed, and a catalog of them.

    Args:
        argv: as on the command line; None takes it from there.

    Raises:
        TransferError: datasets that cannot be used or are too small; an existing output, or one
            after which subsets would have names that are taken.
    """
    args = _parser().parse_args(argv)
    from detectron2.data import DatasetCatalog

    from transfer_maskrcnn.data.export.base import new_folder, write_yaml
    from transfer_maskrcnn.data.few_shot import FewShots, NamedDataset
    from transfer_maskrcnn.data.given import names_of
    from transfer_maskrcnn.data.registry import catalog_entry, register_catalogs
    from transfer_maskrcnn.doctor.subject import looks_like_validation

    declared = register_catalogs(args.catalog)
    chosen, catalogs = names_of(args.names)
    declared += chosen if catalogs else []
    # of what lies in a folder, all that is not to validate on
    chosen = [name for name in chosen if name in args.names or not looks_like_validation(name)]
    runs = list(itertools.product(sorted(set(args.shots)), sorted(set(args.seeds))))
    prefix = args.output.expanduser().resolve().name
    names = [f"{prefix}_{shots}shot_seed{seed}" for shots, seed in runs]
    for name in names:
        if name in DatasetCatalog:
            whose = "declared by --catalog" if name in declared else "registered"
            raise ConfigError(
                f"--output: a subset would be named {name!r}, after the folder, and a dataset of "
                f"that name is {whose} already; choose another --output"
            )
    with new_folder(args.output) as folder:  # it is free: seen before anything is read
        few = FewShots(
            [NamedDataset.registered(name) for name in dict.fromkeys(chosen)], args.classes
        )
        entries: dict[str, Any] = {name: catalog_entry(name) for name in declared}
        for name, (shots, seed) in zip(names, progress(runs, "choosing", len(runs)), strict=True):
            file = f"{shots}shot_seed{seed}.json"
            write_json(folder / file, few.document(shots, seed))
            entries[name] = {
                "format": "coco",
                "annotations": file,
                "image_root": few.image_root,
                "classes": list(few.classes),
            }
        write_yaml(folder / CATALOG, entries)
    classes = f"{len(few.classes)} class{'es' if len(few.classes) > 1 else ''}"
    print(
        wrapped(f"{plural(len(runs), 'set')} of {classes} ({quoted(few.classes)}) in"),
        f"  {args.output}",  # whole, however long
        f"next: {typed('train')} --config-file ... \\",
        f"  DATASETS.CATALOG {shlex.quote(str(args.output / CATALOG))} \\",
        f"  DATASETS.TRAIN \"('{names[-1]}',)\"",
        sep="\n",
    )
