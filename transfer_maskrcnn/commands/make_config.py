"""The command line ``config``: writes a config that is fitted to a dataset."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_maskrcnn.cli import progress, run_tool, tool_parser, typed, whole_number
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import CONFIGS, atomic_path, write_text
from transfer_maskrcnn.text import plural

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

    from transfer_maskrcnn.autoconfig import Data, Line
    from transfer_maskrcnn.data.given import Catalog

EXAMPLES = """
Examples:
  your data:   transfer-maskrcnn config --catalog my.yaml -o my_config.yaml
  then train:  transfer-maskrcnn train --config-file my_config.yaml
  its folder:  transfer-maskrcnn config --train my_photos -o my_config.yaml
  known name:  transfer-maskrcnn config --train balloon_train -o b.yaml
  for a CPU:   ... --base Base-thin-R50-FPN-cpu.yaml --weights w.pth

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
    parser.add_argument(
        *("--catalog",),
        action="append",
        default=[],
        metavar="FILE",
        help="declares datasets, or is the folder of some; may be repeated",
    )
    parser.add_argument(
        "--train", metavar="NAME", help="dataset, or its folder; needless where names tell"
    )
    parser.add_argument("--val", metavar="NAME", help="dataset to evaluate on; the same")
    parser.add_argument("--base", metavar="FILE", help="default: fits weights and device")
    parser.add_argument(
        "--weights", metavar="NAME", help="known name, file or address; default: the base's"
    )
    parser.add_argument(
        *("--iterations",),
        type=partial(whole_number, 1),
        metavar="N",
        help="default: by the number of images",
    )
    return parser


def make_config(argv: Sequence[str] | None = None) -> None:
    """Measure the datasets, decide, write the file, and load it to see that it works.

    Args:
        argv: as on the command line; None takes it from there.

    Raises:
        TransferError: names, files or datasets that cannot be used; an existing output.
    """
    args = _parser().parse_args(argv)
    output: Path = args.output
    _refuse(output)
    if not output.parent.is_dir():
        raise ConfigError(f"-o {output}: there is no folder {output.parent}")
    from detectron2.data import DatasetCatalog

    from transfer_maskrcnn.autoconfig import choose_datasets
    from transfer_maskrcnn.data.given import names_of

    own, sources = names_of(args.catalog)
    named = []
    for argument in (args.train, args.val):
        names, more = names_of([argument] if argument else [], split=args.val is None)
        own, sources = [*own, *names], [*sources, *more]
        named.append(names[0] if len(names) == 1 else None)
    train, val = choose_datasets(own, DatasetCatalog.list(), *named)
    print(f"train: {train}; validate: {val or 'nothing, so there will be no AP'}")
    command = f"{typed('train')} --config-file {shlex.quote(str(output))}"
    with declared(sources, output) as files:
        fit = Fit.of(files, (train, val), args.weights, args.base)
        lines = fit.lines(args.iterations)
        fit.write(output, command, f"output/{output.stem}", lines)
    print(f"Written to {output}")
    if not fit.base.MODEL.WEIGHTS:
        print("note: the base names no weights; add --weights here, or MODEL.WEIGHTS in training")
    print(f"next: {command}")


@dataclass(frozen=True)
class Fit:
    """What a config is made of, decided and measured once.

    Attributes:
        names: the datasets to train and to validate on; None where there is none.
        base_file: what is not said is as there.
        given: what the user, the weights and the device say.
        base: the base with these lines.
        data: what is measured of the datasets.
    """

    names: tuple[str, str | None]
    base_file: str
    given: list[Line]
    base: CfgNode
    data: Data

    @classmethod
    def of(
        cls,
        catalogs: list[str],
        names: tuple[str, str | None],
        weights: str | None,
        base: str | None = None,
    ) -> Fit:
        """
        Args:
            catalogs: files that declare the datasets.
            weights: a known name, a file or an address; None: the base's.
            base: a config; None: the one that fits the weights, and the device that is there.

        Raises:
            TransferError: what does not fit.
        """
        from transfer_maskrcnn.autoconfig.bases import address_of, start_lines, start_of
        from transfer_maskrcnn.config import config_file, load_config

        start = None if base else start_of(weights)
        base_file = config_file(base or (start.base if start else ""), "--base")
        cfg = load_config(base_file)
        given = _given(catalogs, *names, address_of(weights) if weights else None)
        given += start_lines(start, cfg) if start else []
        cfg = merged(cfg, given)
        _check(cfg)
        return cls(names, base_file, given, cfg, _measured(*names))

    def lines(self, iterations: int | None = None, evaluations: int | None = None) -> list[Line]:
        """What the config says, for a training of so many iterations; see ``fit_lines``."""
        from transfer_maskrcnn.autoconfig import fit_lines

        said = {line.key: line.value for line in self.given}
        fitted = fit_lines(self.data, self.base, iterations, evaluations)
        return [*self.given, *(line for line in fitted if said.get(line.key) != line.value)]

    def write(self, output: Path, command: str, folder: str, lines: Sequence[Line]) -> None:
        """Write the config, once it was seen to work.

        Args:
            command: what its reader may type.
            folder: its OUTPUT_DIR.
        """
        from transfer_maskrcnn.autoconfig import Line, yaml_text
        from transfer_maskrcnn.config import load_config

        where = "" if os.path.isabs(folder) else "Below the folder that training starts in."
        text = yaml_text([*lines, Line("OUTPUT_DIR", folder, where or "Of this run.")])
        with atomic_path(output) as temporary:
            heading = _heading(command, output, self.base_file, self.data, self.names)
            temporary.write_text(heading + text, encoding="utf-8")
            _check(load_config(str(temporary)))


def merged(cfg: CfgNode, lines: Sequence[Line]) -> CfgNode:
    """A copy of a config with lines in it."""
    own = cfg.clone()
    own.DATASETS.CATALOG = None  # whether it has a text or a list there
    own.merge_from_list([part for line in lines for part in (line.key, line.value)])
    return own


@contextmanager
def declared(sources: Sequence[Catalog], output: Path) -> Iterator[list[str]]:
    """The catalogs that a config has to name; what was recognised is written beside ``output``, and
    goes again where there will be no config."""
    from transfer_maskrcnn.data.given import catalog_text

    files = [_whole(source.path) for source in sources if not source.entries]
    found = [source for source in sources if source.entries]
    if not found:
        yield files
        return
    path = output.with_name(f"{output.stem}_data.yaml")
    _refuse(path)
    write_text(path, catalog_text(found, path.absolute()))
    try:
        yield [*files, _whole(str(path))]
    except BaseException:
        path.unlink()
        raise
    print(f"Written to {path}: what was found")


def _refuse(output: Path) -> None:
    if output.exists():
        raise ConfigError(f"-o {output}: exists already; choose another name, or remove it")


def _measured(train: str, val: str | None) -> Data:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer_maskrcnn.autoconfig import Data, measure

    classes = list(MetadataCatalog.get(train).thing_classes)
    measures = [
        measure(progress(DatasetCatalog.get(name), f"measuring {name}"), len(classes))
        for name in (train, val)
        if name
    ]
    return Data(classes, *measures)


def _whole(path: str) -> str:
    """As detectron2 and this project read it from any folder."""
    return os.path.abspath(os.path.expanduser(path))


def _given(catalogs: list[str], train: str, val: str | None, weights: str | None) -> list[Line]:
    """What the command line says."""
    from transfer_maskrcnn.autoconfig import Line

    tested = "AP is measured here." if val else "No validation set: no AP is measured."
    catalog = catalogs if len(catalogs) > 1 else next(iter(catalogs), None)
    lines = [
        Line("DATASETS.CATALOG", catalog, "Whole, so that it works from any folder."),
        Line("DATASETS.TRAIN", [train], "Classes and mask format follow this dataset."),
        Line("DATASETS.TEST", [val] if val else [], tested),
        Line("MODEL.WEIGHTS", weights, "Given by --weights."),
    ]
    return [line for line in lines if line.value is not None]


def _check(cfg: CfgNode) -> None:
    """What training checks; a config for a GPU may be made where there is none."""
    from transfer_maskrcnn.engine.setup import fit_config

    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    fit_config(cfg)


def _heading(
    command: str, output: Path, base: str, data: Data, names: tuple[str, str | None]
) -> str:
    from transfer_maskrcnn.autoconfig import comment, scalar

    measured = " and ".join(
        f"{name} ({plural(m.images, 'image')}, {plural(len(m.boxes_wh), 'object')})"
        for name, m in zip(names, (data.train, data.val), strict=True)
        if m is not None
    )
    classes = f"{len(data.classes)} class{'es' if len(data.classes) > 1 else ''}"
    about = comment(f"Fitted to {measured}; {classes}. What is not said here is as in the base.")
    here, path, folder = Path.cwd().resolve(), Path(base).resolve(), output.parent.resolve()
    base = str(path)
    if path.is_relative_to(CONFIGS):  # what comes with the package is found by its name
        base = path.relative_to(CONFIGS).as_posix()
    elif path.is_relative_to(here) and folder.is_relative_to(here):  # they move together
        base = os.path.relpath(path, folder)
    return "\n".join([f"# {command}", "#", *about, f"_BASE_: {scalar(base)}", ""])
