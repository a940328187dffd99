"""The command line ``finetune``: from a folder of annotated images to an own model, in one go."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import shutil
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_maskrcnn.cli import run_tool, tool_parser, typed
from transfer_maskrcnn.commands.make_config import Fit, declared, merged
from transfer_maskrcnn.errors import ConfigError, DatasetError
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.text import plural, spoken, wrapped

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from transfer_maskrcnn.data.given import Catalog
    from transfer_maskrcnn.inference.model import Model

CONFIG, ASKED, PAGE, MENDED = "fitted.yaml", "finetune.json", "doctor.html", "mended"
#: times the schedule that is fitted to the images: as COCO's longest to its shortest
_LONGEST = 3
_PROBE, _PROBE_SECONDS = 0.05, 60  # of the time, or seconds, that measuring may take
_UNITS = {"s": 1, "m": 60, "h": 3600}
EXAMPLES = """
Examples:
  transfer-maskrcnn finetune photos
  transfer-maskrcnn finetune photos --time 30m
  transfer-maskrcnn finetune data.yaml --weights mask_rcnn_R_101_FPN_3x
The data is recognised and examined, a config is fitted to it and to this
machine, and trained; the best weights stay. All is in output/NAME: fitted.yaml
says what was decided, and why; doctor.html is about the data, report.html about
the model. After Ctrl-C the same command goes on.
Exit status: 0; 1 for an error; 3 where training diverged; 130 after Ctrl-C.
"""


def finetune_tool() -> None:
    """Parse the command line and do what it asks."""
    args = _parser().parse_args()
    run_tool(partial(_main, args), "the same command goes on")


def _main(args: argparse.Namespace) -> None:
    folder = _finetune(args.data, args.output, args.weights, args.time, fix=args.fix)
    run = shlex.quote(os.path.relpath(folder))
    config = shlex.quote(os.path.relpath(folder / "config.yaml"))
    print("next:")
    print(f"  {typed('predict')} --weights {run} --input IMAGES --output found")
    print(f"  {typed('explain')} {run}")
    print(f"  {typed('compare')} --config-file {config} --output-dir output/compared")


def finetune(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    time: str | None = None,
    *,
    fix: bool = False,
) -> Model:
    """Fine-tune Mask R-CNN on a dataset; what was cut off goes on, what is finished stays::

        model = finetune("photos", time="30m")
        result = model("photo.jpg")

    Args:
        data: a folder or file of a dataset, which is recognised, or a catalog.
        output: the run's folder; None: ``output/`` and the name of ``data``.
        weights: to start from: a known name (``transfer-maskrcnn weights``), a file, a run's folder
            or an address; None: COCO's R50-FPN of detectron2's model zoo.
        time: that all may take: "90s", "30m", "2h"; None: as many iterations as suit the images.
        fix: train on a copy that is mended as far as a program can.

    Raises:
        DatasetError: errors in the data, of which the terminal tells.
        ConfigError: the folder holds what another call began.
        TransferError: whatever else cannot be.
    """
    from transfer_maskrcnn.inference.load import load_model

    return load_model(_finetune(data, output, weights, time, fix=fix))


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("From a folder of annotated images to an own model.", EXAMPLES)
    parser.add_argument("data", metavar="DATA", help="folder or file of a dataset, or a catalog")
    parser.add_argument("--output", metavar="DIR", help="default: output/NAME, as DATA is called")
    parser.add_argument(
        "--weights", metavar="NAME", help="known name or file; default: COCO's R50-FPN"
    )
    parser.add_argument("--time", metavar="30m", help="that all may take: 90s, 30m, 2h")
    parser.add_argument("--fix", action="store_true", help="train on a mended copy of the data")
    return parser


def _finetune(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    weights: str | None,
    time: str | None,
    *,
    fix: bool,
) -> Path:
    began, path = clock.monotonic(), Path(os.path.abspath(os.path.expanduser(data)))
    folder = Path(output or Path("output", _name(path)))
    asked = {"data": str(path), "weights": weights, "time": time}
    config, seconds = folder / CONFIG, _seconds(time)
    before = read_json(folder / ASKED, dict, {}) if config.is_file() else {}
    if before and before != asked:
        raise ConfigError(
            f"{folder} holds what was asked for otherwise: {_shown(before)}; now it is "
            f"{_shown(asked)}. Name another folder with --output"
        )
    if not before:
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            _prepare(path, folder, weights, fix, seconds and began + seconds)
        write_json(folder / ASKED, asked)
    if (folder / "report.html").is_file() and before:
        print(f"This run is finished: {folder / 'report.html'}; another --output begins anew.")
    else:
        _train(config, resume=bool(before))
    return folder


def _train(config: Path, resume: bool) -> None:
    from transfer_maskrcnn.cli import parse_arguments
    from transfer_maskrcnn.commands.train_net import train_or_evaluate, train_parser
    from transfer_maskrcnn.engine.hooks.record import EvaluationLines

    arguments = ["--config-file", str(config), *(["--resume"] if resume else [])]
    args = parse_arguments(train_parser(), arguments)
    train_or_evaluate(args, [EvaluationLines()], logging.WARNING)


def _name(path: Path) -> str:
    """Of the run: the folder's, as of ``photos/data.yaml``, or the file's where it has its own."""
    own = path.stem if path.suffix else path.name
    return path.parent.name if own in ("data", "dataset", "catalog") and path.suffix else own


def _seconds(time: str | None) -> int:
    """
    Raises:
        ConfigError: it is no time.
    """
    found = re.fullmatch(r"(\d+)([smh])", time or "0s")
    if found is None:
        raise ConfigError(f"--time {time}: expected a whole number and a unit: 90s, 30m or 2h")
    return int(found[1]) * _UNITS[found[2]]


def _shown(asked: dict[str, Any]) -> str:
    options = [f"--{key} {asked[key]}" for key in ("weights", "time") if asked.get(key)]
    return shlex.join([str(asked.get("data"))]) + "".join(f" {option}" for option in options)


@contextmanager
def _quiet() -> Iterator[None]:
    """What is logged while a training is prepared is logged again when it begins."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _prepare(path: Path, folder: Path, weights: str | None, fix: bool, ends: float) -> None:
    """Recognise, examine, fit, measure; at the end ``folder`` has the config.

    Args:
        ends: when all should be done, of the monotonic clock; 0: whenever.
    """
    from transfer_maskrcnn.autoconfig import choose_datasets
    from transfer_maskrcnn.autoconfig.bases import start_of
    from transfer_maskrcnn.surgery.load import local_file

    start = start_of(weights)
    names, sources = _examined(path, folder, start.base, fix)
    try:
        chosen = choose_datasets(names, names, None, None)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}, of the command config") from None
    local_file(start.weights)  # fetched before anything is measured
    config = folder / CONFIG
    config.with_name(f"{config.stem}_data.yaml").unlink(missing_ok=True)  # of a killed process
    with declared(sources, config) as files:
        fit = Fit.of(files, chosen, weights)
        lines = _fitted_to_time(fit, ends)
        command = f"{typed('train')} --config-file {shlex.quote(os.path.relpath(config))}"
        fit.write(config, command, str(folder.absolute()), lines)


def _examined(
    path: Path, folder: Path, base: str, fix: bool | None
) -> tuple[list[str], list[Catalog]]:
    """The names of the datasets, and where they are declared; a mended copy if it is asked for.

    Args:
        fix: None: it is that copy, of which errors are told that no program can mend.

    Raises:
        DatasetError: they have errors.
    """
    from transfer_maskrcnn.autoconfig import settings_of
    from transfer_maskrcnn.commands.check_dataset import mend
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.data.given import names_of
    from transfer_maskrcnn.data.mapper import MapperForCheck
    from transfer_maskrcnn.doctor import examine, findings, page_data
    from transfer_maskrcnn.doctor.subject import subject_of
    from transfer_maskrcnn.report.doctor_page import write_doctor_page

    cfg = load_config(base)
    names, sources = names_of([str(path)])
    for name, about in ((n, a) for source in sources for n, a in source.about.items()):
        print(wrapped(f"found {name}: {about}", "  "))
    subjects = [subject_of(name) for name in names]
    diagnosis = examine(subjects, settings_of(cfg), partial(MapperForCheck, cfg))
    content = diagnosis.as_json()
    write_doctor_page(page_data(diagnosis), folder / PAGE)
    # a set that cannot be loaded would be missing from the copy
    if fix and content["findings"] and len(diagnosis.examined) == len(names):
        shutil.rmtree(folder / MENDED, ignore_errors=True)
        mend(diagnosis, folder / MENDED)
        return _examined(folder / MENDED, folder, base, fix=None)
    if diagnosis.has_errors:
        findings.print_diagnosis(content)
        or_have_it = ", or have it mended as far as a program can: the same command with --fix"
        raise DatasetError(
            f"{path} cannot be trained on as it is. Mend what is above"
            + (or_have_it if fix is False else "; no program can")
        )
    print(wrapped(f"examined: {content['verdict']} ({folder / PAGE})", "  "))
    return names, sources


def _fitted_to_time(fit: Fit, ends: float) -> Sequence[Any]:
    """The lines of the config, with as many iterations as fit, if there is an end."""
    from transfer_maskrcnn.autoconfig.decisions import EVALUATIONS
    from transfer_maskrcnn.engine.pace import measure_pace
    from transfer_maskrcnn.engine.run import keep_freed_memory

    lines = fit.lines()
    cfg = merged(fit.base, lines)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    print("measuring how fast this machine trains ...", flush=True)
    longest = _PROBE * (ends - clock.monotonic()) if ends else _PROBE_SECONDS
    pace, wanted, evaluations = measure_pace(cfg, longest), cfg.SOLVER.MAX_ITER, EVALUATIONS
    iterations = wanted
    if ends:
        left = ends - clock.monotonic()
        iterations, evaluations = pace.fitting(left, _LONGEST * wanted)
        lines = fit.lines(iterations, evaluations)
    where = "CPU" if cfg.MODEL.DEVICE == "cpu" else "GPU"
    takes = spoken(pace.seconds(iterations, evaluations))
    step = f"{pace.step:.2g} s" if pace.step >= 0.1 else f"{pace.step * 1000:.0f} ms"
    few = f"; {wanted} would suit the images: expect less of it" if iterations < wanted / 2 else ""
    made = f"about {takes} on this {where}: {plural(iterations, 'iteration')} of {step}{few}"
    print(wrapped(made, "  "), flush=True)
    return lines
