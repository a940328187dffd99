"""The command line ``finetune``: from a folder of annotated images to an own model, in one go."""

from __future__ import annotations

import argparse
import logging
import math
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

from transfer_maskrcnn.cli import quiet_third_parties, run_tool, tool_parser, typed
from transfer_maskrcnn.commands.make_config import Fit, declared, merged
from transfer_maskrcnn.errors import ConfigError, DatasetError, nearest, refuse
from transfer_maskrcnn.files import read_json, write_json
from transfer_maskrcnn.text import plural, spoken, wrapped

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from transfer_maskrcnn.data.given import Catalog
    from transfer_maskrcnn.inference.model import Model

CONFIG, ASKED, PAGE, MENDED = "fitted.yaml", "finetune.json", "doctor.html", "mended"
#: times the schedule that is fitted to the images: as COCO's longest to its shortest
_LONGEST = 3
_PROBE, _PROBE_SECONDS = 0.05, 60  # of the time, or seconds, that measuring may take
_FEW = 20  # iterations that teach next to nothing
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
    images = shlex.quote(os.path.relpath(_validation_images(folder / CONFIG)))
    print("next, your own images in the place of those that it was validated on:")
    print(f"  {typed('predict')} --weights {run} --input {images} --output found")
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

    quiet_third_parties()
    return load_model(_finetune(data, output, weights, time, fix=fix))


def _validation_images(config: Path) -> str:
    from detectron2.data import DatasetCatalog

    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.engine.setup import fit_config

    cfg = load_config(str(config))
    fit_config(cfg)  # which registers the datasets, for a run that was finished before
    return os.path.dirname(
        DatasetCatalog.get((cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)[0])[0]["file_name"]
    )


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("From a folder of annotated images to an own model.", EXAMPLES)
    parser.add_argument("data", metavar="DATA", help="folder or file of a dataset, or a catalog")
    parser.add_argument("--output", metavar="DIR", help="default: output/NAME, as DATA is called")
    parser.add_argument(
        "--weights", metavar="NAME", help="known name or file; default: COCO's R50-FPN"
    )
    parser.add_argument("--time", metavar="30m", help="about what all may take: 90s, 30m, 2h")
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
    config, seconds, deadline = folder / CONFIG, _seconds(time), 0.0
    before = read_json(folder / ASKED, dict, {}) if config.is_file() else {}
    if before and before != asked:
        raise ConfigError(
            f"{folder} holds what was asked for otherwise: {_shown(before)}; now it is "
            f"{_shown(asked)}. Name another folder with --output"
        )
    if not before:
        _check_places(path, folder)
        with _quiet():
            deadline = _prepare(path, folder, weights, fix, began, seconds)
        write_json(folder / ASKED, asked)
    if (folder / "report.html").is_file() and before:
        print(f"This run is finished: {folder / 'report.html'}; another --output begins anew.")
    else:
        _train(config, bool(before), deadline)
    return folder


def _check_places(path: Path, folder: Path) -> None:
    """
    Raises:
        DatasetError: there are no data.
        ConfigError: a file is where the run's folder should be.
    """
    if not path.exists():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise DatasetError(f"{path}: no such folder or file{nearest(path.name, beside)}")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"--output {folder}: {there} is a file; name a folder")


def _train(config: Path, resume: bool, deadline: float) -> None:
    """
    Args:
        deadline: when iterations have to end, of the monotonic clock; 0: whenever.
    """
    from transfer_maskrcnn.cli import parse_arguments
    from transfer_maskrcnn.commands.train_net import train_or_evaluate, train_parser
    from transfer_maskrcnn.engine.hooks.record import EvaluationLines
    from transfer_maskrcnn.engine.pace import Deadline

    args = parse_arguments(train_parser(), ["--config-file", str(config)])
    args.resume = resume
    hooks = [EvaluationLines(), *([Deadline(deadline)] if deadline else [])]
    train_or_evaluate(args, hooks, logging.WARNING)


def _name(path: Path) -> str:
    """Of the run: the folder's, as of ``photos/data.yaml``, or the file's where it has its own."""
    if path.is_dir():
        return path.name
    return path.parent.name if path.stem in ("data", "dataset", "catalog") else path.stem


def _seconds(time: str | None) -> int:
    """
    Raises:
        ConfigError: it is no time.
    """
    if time is None:
        return 0
    found = re.fullmatch(r"0*([1-9]\d*)([smh])", time)
    if found is None:
        raise ConfigError(
            f"--time {time}: expected a whole number above 0 and a unit: 90s, 30m or 2h"
        )
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


def _prepare(
    path: Path, folder: Path, weights: str | None, fix: bool, began: float, seconds: int
) -> float:
    """Recognise, examine, fit, measure; at the end ``folder`` has the config.

    Args:
        began: of the monotonic clock.
        seconds: that all may take from then on; 0: as many as it takes.

    Returns:
        when iterations have to end; 0: whenever.
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
        lines, deadline = _fitted_to_time(fit, began, seconds)
        own, other = map(os.path.relpath, (config, folder.with_name(f"{folder.name}_2")))
        again = ["--config-file", own, "OUTPUT_DIR", other]  # the run that is here stays
        fit.write(config, f"{typed('train')} {shlex.join(again)}", str(folder.absolute()), lines)
    return deadline


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
    folder.mkdir(parents=True, exist_ok=True)
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


def _fitted_to_time(fit: Fit, began: float, seconds: int) -> tuple[Sequence[Any], float]:
    """The lines of the config, with as many iterations as fit, if there is an end; and when these
    have to end.

    Raises:
        ConfigError: nothing fits.
    """
    from transfer_maskrcnn.autoconfig.decisions import EVALUATIONS
    from transfer_maskrcnn.engine.pace import measure_pace
    from transfer_maskrcnn.engine.run import keep_freed_memory

    lines = fit.lines()
    cfg = merged(fit.base, lines)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    print("measuring how fast this machine trains ...", flush=True)
    longest = _PROBE * (began + seconds - clock.monotonic()) if seconds else _PROBE_SECONDS
    pace, wanted, evaluations = measure_pace(cfg, longest), cfg.SOLVER.MAX_ITER, EVALUATIONS
    iterations, deadline, spent = wanted, 0.0, clock.monotonic() - began
    enough = _rounded(spent + pace.seconds(wanted, EVALUATIONS))
    suits = f"{wanted} would suit the images: --time {enough}"
    if seconds:
        iterations, evaluations = pace.fitting(seconds - spent, _LONGEST * wanted)
        least = spent + pace.seconds(1, 1)
        why = f"a single iteration, with all around it, takes about {spoken(least)} here"
        refuse((least > seconds, f"--time: {spoken(seconds)} cannot be kept: {why}; {suits}"))
        lines = fit.lines(iterations, evaluations)
        deadline = began + seconds - pace.ending(seconds - spent)
    where = "CPU" if cfg.MODEL.DEVICE == "cpu" else "GPU"
    takes = spoken(pace.seconds(iterations, evaluations))
    step = f"{pace.step:.2g} s" if pace.step >= 0.1 else f"{pace.step * 1000:.0f} ms"
    made = f"about {takes} on this {where}: {plural(iterations, 'iteration')} of {step}"
    print(wrapped(made, "  "), flush=True)
    if iterations < wanted / 2:
        less = "WARNING: so few teach next to nothing" if iterations < _FEW else "expect less of it"
        print(wrapped(f"{less}; {suits}", "  "), flush=True)
    return lines, deadline


def _rounded(seconds: float) -> str:
    """Up, as --time takes it."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes <= 120 else f"{math.ceil(minutes / 60)}h"
