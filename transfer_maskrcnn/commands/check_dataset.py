"""The command line of tools/check_dataset.py: what is wrong with a dataset, before training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_maskrcnn.cli import run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.text import plural

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

    from transfer_maskrcnn.doctor import Diagnosis, Settings, Subject

FORMATS = ("coco", "via", "labelme", "yolo", "png_masks")
EXPORTED = ("coco", "yolo", "labelme", "labelme_masks", "png_masks")
EXAMPLES = """
Examples:
  python tools/check_dataset.py balloon_train balloon_val
  python tools/check_dataset.py --catalog my.yaml
  python tools/check_dataset.py --format coco --annotations train.json \\
    --image-root images --html doctor.html
  python tools/check_dataset.py --catalog my.yaml --fix mended
  python tools/check_dataset.py balloon_train --convert yolo balloon_yolo
Names with "val" or "test" in them are taken for validation sets, the others for
training sets; each pair of both kinds is compared. --config-file tells which
input size, anchors and limits to check against (else Mask R-CNN R50-FPN's).
Exit status: 0; 1 where there are errors among the findings, or for a mistake.
"""
STANDARD = (  # the model zoo's FPN, where no config says otherwise
    *("MODEL.MASK_ON", "True"),
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", "['res2','res3','res4','res5']"),
    *("MODEL.FPN.IN_FEATURES", "['res2','res3','res4','res5']"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32],[64],[128],[256],[512]]"),
    *("MODEL.RPN.IN_FEATURES", "['p2','p3','p4','p5','p6']"),
)


def check_dataset(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, of this process if ``argv`` is None, and examine what it names."""
    run_tool(partial(_main, _parser().parse_args(argv)), "nothing half-written was left")


def _main(args: argparse.Namespace) -> int:
    _check_outputs(args)
    from transfer_maskrcnn.autoconfig import settings_of
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.data.mapper import MapperForCheck
    from transfer_maskrcnn.doctor import examine, findings, page_data
    from transfer_maskrcnn.report.doctor_page import write_doctor_page

    cfg = load_config(args.config_file, () if args.config_file else STANDARD)
    subjects, settings = _subjects(args, cfg), settings_of(cfg)
    if args.convert:
        _convert(subjects, settings, args.convert[0], Path(args.convert[1]))
        return 0
    diagnosis = examine(subjects, settings, partial(MapperForCheck, cfg))
    content = diagnosis.as_json()
    if args.json == "-":
        print(json.dumps(content, indent=1))
    else:
        findings.print_diagnosis(content)
        if args.json:
            write_json(args.json, content)
    if args.html:
        write_doctor_page(page_data(diagnosis), args.html)
        print(f"Page: {args.html}", file=sys.stderr if args.json == "-" else sys.stdout)
    if args.fix:
        _fix(diagnosis, args.fix)
    return int(diagnosis.has_errors)


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Examine datasets before training: what is wrong, where, and how to mend it.", EXAMPLES
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets")
    parser.add_argument(
        *("--catalog",),
        action="append",
        metavar="FILE",
        help="YAML that declares datasets of your own; may be repeated",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="as for train_net.py")
    files = parser.add_argument_group("a dataset that is not declared anywhere")
    files.add_argument("--format", choices=FORMATS)
    files.add_argument("--annotations", metavar="PATH", help="json file, data.yaml or folder")
    files.add_argument("--image-root", metavar="DIR", help="folder of the images")
    files.add_argument("--classes", metavar="A,B", help="class names, in the order wanted")
    parser.add_argument("--json", metavar="FILE", help="write all findings; - for stdout")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--fix", type=Path, metavar="DIR", help="write a mended copy there, as COCO json"
    )
    action.add_argument(
        *("--convert",),
        nargs=2,
        metavar=("FORMAT", "DIR"),
        help=f"write a copy in another format ({', '.join(EXPORTED)}), without checking",
    )
    return parser


def _subjects(args: argparse.Namespace, cfg: CfgNode) -> list[Subject]:
    """What the command line names or describes; else what the config names."""
    from transfer_maskrcnn.data.registry import make_spec, register_catalogs
    from transfer_maskrcnn.doctor.subject import looks_like_validation, subject_of

    declared = register_catalogs(args.catalog)
    names, described = args.names or declared, []
    if args.format or args.annotations:
        if not (args.format and args.annotations):
            raise ConfigError("--format and --annotations go together; --help has an example")
        path = Path(args.annotations).resolve()
        # valid/_annotations.coco.json: the folder says which set it is.
        name = path.stem if looks_like_validation(path.stem) else f"{path.parent.name}/{path.stem}"
        classes = args.classes.split(",") if args.classes else None
        spec = make_spec(name, args.format, args.annotations, args.image_root, classes=classes)
        described = [subject_of(name, spec=spec)]
    elif not names:
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        register_catalogs(cfg.DATASETS.CATALOG)
    if not (names or described):
        raise ConfigError(
            "no dataset: name one (balloon_train), or use --catalog my.yaml, or --format, "
            "--annotations and --image-root; --help has examples"
        )
    return [subject_of(name, name in cfg.DATASETS.TEST) for name in names] + described


def _check_outputs(args: argparse.Namespace) -> None:
    """Before minutes of work: is there room for what will be written?"""
    for path in (Path(given) for given in (args.html, args.json) if given not in (None, "-")):
        if path.is_dir() or not path.parent.is_dir():
            state = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise ConfigError(f"{path}: {state}; expected the name of a file")
    if args.fix and args.fix.exists() and (not args.fix.is_dir() or any(args.fix.iterdir())):
        raise ConfigError(
            f"--fix {args.fix} is there already; name a new folder, nothing is overwritten"
        )


def _fix(diagnosis: Diagnosis, output: Path) -> None:
    from transfer_maskrcnn.data.export.several import write_sets
    from transfer_maskrcnn.doctor.fix import repair

    datasets = {one.name: one.dataset for one in diagnosis.examined}
    for name, (folder, changes) in write_sets(repair, datasets, output).items():
        count = plural(len(changes), "change")
        print(f"{name}: mended copy in {folder}, {count} listed in changes.json")
    if datasets:
        print(f"{output / 'catalog.yaml'} declares what was mended")


def _convert(subjects: Sequence[Subject], settings: Settings, format: str, output: Path) -> None:
    if format not in EXPORTED:
        raise ConfigError(f"--convert {format}: expected one of {', '.join(EXPORTED)}")
    from transfer_maskrcnn.data.export.several import export_sets
    from transfer_maskrcnn.doctor.findings import grouped, worst_first
    from transfer_maskrcnn.doctor.subject import load

    loaded = {subject.spec.name: load(subject, settings) for subject in subjects}
    datasets = {name: one.dataset for name, (one, _) in loaded.items()}
    validation = [name for name, (one, _) in loaded.items() if one.is_validation]
    for name, (folder, notes) in export_sets(format, datasets, validation, output).items():
        one, told = loaded[name]
        print(
            f"{name}: {plural(len(one.dataset.dicts), 'image')} and "
            f"{plural(sum(one.dataset.instances), 'instance')} written to {folder}"
        )
        for note in notes:
            print(f"  {note}")
        for lost in worst_first(grouped(name, told, **one.values)):
            print("  {severity}: {count} {what}. {effect}".format_map(lost.as_json()))
    print(f"{output / 'catalog.yaml'} declares what was written")
