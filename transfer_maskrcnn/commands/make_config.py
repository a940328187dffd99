"""The command line of tools/make_config.py: writes a config that is fitted to a dataset."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_maskrcnn.cli import progress, run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.text import plural

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

    from transfer_maskrcnn.autoconfig import Data
    from transfer_maskrcnn.autoconfig.datasets import Measures
    from transfer_maskrcnn.autoconfig.lines import Line

DEFAULT_BASE = "configs/Base-R50-FPN-coco.yaml"
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = """
Examples:
  your data:   python tools/make_config.py --catalog my.yaml -o my_config.yaml
  then train:  python tools/train_net.py --config-file my_config.yaml
  known name:  python tools/make_config.py --train balloon_train -o b.yaml
  for a CPU:   ... --base configs/Base-thin-R50-FPN-cpu.yaml --weights w.pth

The base decides the architecture and how large images may be; every line that
is written has its reason above it.

Exit status: 0; 1 for an error; 130 after Ctrl-C.
"""


def make_config_tool() -> None:
    """Parse the command line and write the config."""
    run_tool(make_config, "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Write a config that is fitted to a dataset, with the reason of each line.", EXAMPLES
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a new .yaml file"
    )
    parser.add_argument("--catalog", metavar="FILE", help="declares datasets, as DATASETS.CATALOG")
    parser.add_argument("--train", metavar="NAME", help="dataset; needless where names tell")
    parser.add_argument("--val", metavar="NAME", help="dataset to evaluate on; the same")
    parser.add_argument("--base", metavar="FILE", help=f"default: {DEFAULT_BASE}")
    parser.add_argument("--weights", metavar="FILE", help="MODEL.WEIGHTS; default: the base's")
    parser.add_argument(
        "--iterations", type=_positive, metavar="N", help="default: by the number of images"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def make_config(argv: Sequence[str] | None = None) -> None:
    """Measure the datasets, decide, write the file, and load it to see that it works.

    Args:
        argv: as on the command line; None takes it from there.

    Raises:
        TransferError: names, files or datasets that cannot be used; an existing output.
    """
    args = _parser().parse_args(argv)
    output: Path = args.output
    if output.exists():
        raise ConfigError(f"-o {output}: exists already; choose another name, or remove it")
    if not output.parent.is_dir():
        raise ConfigError(f"-o {output}: there is no folder {output.parent}")
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer_maskrcnn.autoconfig import Data, fit_lines
    from transfer_maskrcnn.autoconfig.datasets import choose_datasets
    from transfer_maskrcnn.autoconfig.lines import Line, yaml_text
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.data.registry import register_catalog

    base_file = _base_file(args.base)
    base = load_config(str(base_file))
    catalog = _whole(args.catalog) if args.catalog else ""
    own = register_catalog(catalog) if catalog else []
    train, val = choose_datasets(own, DatasetCatalog.list(), args.train, args.val)
    print(f"train: {train}; validate: {val or 'nothing, so there will be no AP'}")
    places = _place_lines(catalog, train, val)
    if args.weights:
        places.append(Line("MODEL.WEIGHTS", _weights(args.weights), "Given by --weights."))
    _check(base, places)
    classes = list(MetadataCatalog.get(train).thing_classes)
    data = Data(classes, _measured(train), _measured(val) if val else None)
    fitted = fit_lines(data, base, args.iterations)
    text = _header(output, base_file, data, (train, val))
    reason = "Below the folder that training starts in."
    text += yaml_text([*places, *fitted, Line("OUTPUT_DIR", f"output/{output.stem}", reason)])
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _check(load_config(str(temporary)), [])
    print(f"Written to {output}")
    if not (args.weights or base.MODEL.WEIGHTS):
        print("note: the base names no weights; add --weights here, or MODEL.WEIGHTS in training")
    print(f"next: {_command(output)}")


def _base_file(given: str | None) -> Path:
    if given is not None:
        return Path(given).expanduser()
    here = Path(DEFAULT_BASE)
    return here if here.is_file() else REPOSITORY / DEFAULT_BASE


def _whole(path: str) -> str:
    """As detectron2 and this project read it from any folder."""
    return os.path.abspath(os.path.expanduser(path))


def _place_lines(catalog: str, train: str, val: str | None) -> list[Line]:
    from transfer_maskrcnn.autoconfig.lines import Line

    lines = []
    if catalog:
        lines.append(Line("DATASETS.CATALOG", catalog, "Whole, so that it works from any folder."))
    lines.append(Line("DATASETS.TRAIN", [train], "Classes and mask format follow this dataset."))
    reason = "AP is measured here at the end." if val else "No validation set: no AP is measured."
    lines.append(Line("DATASETS.TEST", [val] if val else [], reason))
    return lines


def _weights(given: str) -> str:
    if "://" in given:
        return given
    path = _whole(given)
    if not os.path.isfile(path):
        raise ConfigError(f"--weights {given}: there is no such file")
    return path


def _check(base: CfgNode, lines: Sequence[Line]) -> None:
    """What train_net.py checks; a config for a GPU may be made where there is none."""
    from transfer_maskrcnn.engine.setup import fit_config

    cfg = base.clone()
    for line in lines:
        cfg.merge_from_list([line.key, line.value])
    cfg.MODEL.DEVICE = "cpu"
    fit_config(cfg)


def _measured(name: str) -> Measures:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer_maskrcnn.autoconfig.datasets import measure

    records = DatasetCatalog.get(name)
    classes = len(MetadataCatalog.get(name).thing_classes)
    return measure(progress(records, f"measuring {name}", len(records)), classes)


def _header(output: Path, base: Path, data: Data, names: tuple[str, str | None]) -> str:
    from transfer_maskrcnn.autoconfig.lines import comment, scalar

    measured = [
        f"{name} ({plural(m.images, 'image')}, {plural(m.objects, 'object')})"
        for name, m in zip(names, (data.train, data.val), strict=True)
        if m is not None
    ]
    count = len(data.classes)
    classes = f"{count} class{'es' if count > 1 else ''}"
    about = f"Fitted by tools/make_config.py to {' and '.join(measured)}; {classes}."
    rows = [
        f"# {_command(output)}",
        "#",
        *comment(f"{about} What is not said here is as in the base."),
        f"_BASE_: {scalar(_base_reference(base, output))}",
    ]
    return "\n".join(rows) + "\n"


def _base_reference(base: Path, output: Path) -> str:
    """Relative to the new file where both are below this folder: they move together."""
    here, base, folder = Path.cwd().resolve(), base.resolve(), output.parent.resolve()
    if base.is_relative_to(here) and folder.is_relative_to(here):
        return os.path.relpath(base, folder)
    return str(base)


def _command(output: Path) -> str:
    return f"python tools/train_net.py --config-file {shlex.quote(str(output))}"
