"""The command line ``check``: what is wrong with a dataset, before training."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_maskrcnn.cli import run_tool, tool_parser, typed
from transfer_maskrcnn.errors import ConfigError, refuse
from transfer_maskrcnn.files import write_json, write_text
from transfer_maskrcnn.text import plural, printable, wrapped

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

    from transfer_maskrcnn.doctor import Diagnosis, Settings, Subject

FORMATS = ("coco", "via", "labelme", "yolo", "png_masks")
EXPORTED = ("coco", "yolo", "labelme", "labelme_masks", "png_masks")
EXAMPLES = """
Examples:
  transfer-maskrcnn check my_photos --write my.yaml --html doctor.html
  transfer-maskrcnn check --catalog my.yaml
  transfer-maskrcnn check balloon_train balloon_val
  transfer-maskrcnn check --format coco --annotations train.json \\
    --image-root images
  transfer-maskrcnn check --catalog my.yaml --fix mended
  transfer-maskrcnn check balloon_train --convert yolo balloon_yolo
A folder or file is recognised: labelme, COCO, VIA, YOLO, or PNG masks, as tools
export them; --format and the options beside it say what is not as it was found.
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
    _recognise(args)
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
        mend(diagnosis, args.fix)
    elif args.paths and args.json != "-":
        _tell_next(args, diagnosis)
    return int(diagnosis.has_errors)


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Examine datasets before training: what is wrong, where, and how to mend it.", EXAMPLES
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="registered datasets, or folders or files of some"
    )
    parser.add_argument(
        *("--catalog",),
        action="append",
        metavar="FILE",
        help="YAML that declares datasets of your own; may be repeated",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="as for training")
    files = parser.add_argument_group("a dataset that is not declared anywhere")
    files.add_argument("--write", type=Path, metavar="FILE", help="declare what was found in FILE")
    files.add_argument("--format", choices=FORMATS)
    files.add_argument("--annotations", metavar="PATH", help="json file, data.yaml or folder")
    files.add_argument("--image-root", metavar="DIR", help="folder of the images")
    files.add_argument("--classes", metavar="A,B", help="class names, in the order wanted")
    files.add_argument("--split", metavar="KEY", help="yolo: the key of the data.yaml")
    files.add_argument("--attribute", metavar="NAME", help="via: what holds the class")
    files.add_argument("--pixel-values", choices=("instance", "class"), help="png_masks")
    files.add_argument("--mask-suffix", metavar="TEXT", help="png_masks: X_mask.png is of X.jpg")
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


def _recognise(args: argparse.Namespace) -> None:
    """Make names of the paths in ``args.names``; ``args.paths`` is where all datasets come from."""
    from transfer_maskrcnn.data.given import catalog_text, names_of
    from transfer_maskrcnn.data.registry import register_catalogs

    catalogs = args.catalog or []
    given = [*(args.names or catalogs), *([] if args.format else filter(None, [args.annotations]))]
    args.paths = catalogs if args.names else []  # which declare more than what is named
    register_catalogs(args.paths)
    args.names, sources = names_of(given, args.format, _options(args))
    args.paths = [*args.paths, *(source.path for source in sources)]
    found = [source for source in sources if source.entries]
    output = sys.stderr if args.json == "-" else sys.stdout
    for catalog in found:
        for name, about in catalog.about.items():
            print(wrapped(f"found {name}: {about}", "  "), file=output)
    if args.write and not found:
        raise ConfigError("--write: nothing was recognised; name a folder or a file of a dataset")
    if args.write:
        write_text(args.write, catalog_text(found, args.write.absolute()))
        print(f"Written to {args.write}", file=output)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of a dataset that is declared nowhere."""
    keys = ("image_root", "classes", "split", "attribute", "pixel_values", "mask_suffix")
    stated = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    return stated | ({"classes": args.classes.split(",")} if args.classes else {})


def _subjects(args: argparse.Namespace, cfg: CfgNode) -> list[Subject]:
    """What the command line names or describes; else what the config names."""
    from transfer_maskrcnn.data.registry import register_catalogs, register_dataset
    from transfer_maskrcnn.doctor.subject import looks_like_validation, subject_of

    names = args.names
    if args.format and args.annotations:
        path = Path(args.annotations).resolve()
        # valid/_annotations.coco.json: the folder says which set it is.
        name = path.stem if looks_like_validation(path.stem) else f"{path.parent.name}/{path.stem}"
        own = register_dataset(
            name, format=args.format, annotations=args.annotations, **_options(args)
        )
        names = [*names, *own]
    elif not names:
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        register_catalogs(cfg.DATASETS.CATALOG)
    if not names:
        raise ConfigError(
            "no dataset: name a folder or file, or one that is registered (balloon_train), or use "
            "--catalog my.yaml, or --format, --annotations and --image-root; --help has examples"
        )
    return [subject_of(name, name in cfg.DATASETS.TEST) for name in names]


def _tell_next(args: argparse.Namespace, diagnosis: Diagnosis) -> None:
    catalogs = [args.write] if args.write else args.paths
    given = " ".join(f"--catalog {shlex.quote(str(catalog))}" for catalog in catalogs)
    trained_on = [one.name for one in diagnosis.examined if not one.is_validation]
    if not any(sum(one.dataset.instances) for one in diagnosis.examined):
        print("next: the same, with what is asked for above: --classes, --attribute, ...")
    elif not args.write and (args.format or _options(args)):
        print("next: the same with --write my.yaml, which keeps what you said of the dataset")
    elif diagnosis.has_errors:
        print("next: mend what is above, or have it mended as far as a program can:")
        print(f"  {typed('check')} {given} --fix mended")
    else:
        chosen = f" --train {trained_on[0]}" if len(trained_on) > 1 else ""  # its val is found
        print(f"next: {typed('config')} {given}{chosen} -o my_config.yaml")


def _check_outputs(args: argparse.Namespace) -> None:
    """Before minutes of work: is there room for what will be written?"""
    written = (args.html, args.json, args.write)
    for path in (Path(given) for given in written if given not in (None, "-")):
        if path.is_dir() or not path.parent.is_dir():
            state = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise ConfigError(f"{path}: {state}; expected the name of a file")
    refuse(
        (
            args.write and args.write.exists(),
            f"--write {args.write}: exists already; nothing is overwritten",
        ),
        (
            args.fix and args.fix.exists() and (not args.fix.is_dir() or any(args.fix.iterdir())),
            f"--fix {args.fix} is there already; name a new folder, nothing is overwritten",
        ),
    )


def mend(diagnosis: Diagnosis, output: Path) -> None:
    """Write a mended copy of what was examined, with its catalog, into a new folder."""
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
        print(f"{name}: {one.counted}, written to {folder}")
        for note in notes:
            print(f"  {note}")
        for lost in worst_first(grouped(name, told, **one.values)):
            print("  {severity}: {count} {what}. {effect}".format_map(printable(lost.as_json())))
    print(f"{output / 'catalog.yaml'} declares what was written")
