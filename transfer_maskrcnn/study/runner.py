"""Runs a study's trainings, as many at a time as there are GPUs, each of them once."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from transfer_maskrcnn.cli import DIVERGED_STATUS, now_and_then, program, typed
from transfer_maskrcnn.config import editable
from transfer_maskrcnn.engine.manifest import config_hash, dataset_fingerprint
from transfer_maskrcnn.engine.run import only_run_in
from transfer_maskrcnn.errors import ConfigError, TransferError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.study.design import Design, Run
from transfer_maskrcnn.study.results import (
    collect,
    read_record,
    read_result,
    task_of,
)
from transfer_maskrcnn.study.words import outcome
from transfer_maskrcnn.surgery.load import weights_digest

CHILD = Path(__file__).with_name("child.py")
CONSOLE = "console.txt"
KEY_FILE = "study_run.json"
LAST_WORDS = 15  # lines of a failed run's output


Key = dict[str, str]


class Interrupted(Exception):
    """The study was told to stop; its runs go on from their checkpoints next time."""


class StudyRunner:
    """Trains what is missing from a study's folder.

    A run that has ended is not run again; one that was cut off goes on from its last checkpoint.

    Attributes:
        configs: of every run, in the design's order.
    """

    def __init__(self, design: Design, output_dir: Path, gpus: int = 0):
        """
        Args:
            design: what to run.
            output_dir: the study's folder.
            gpus: processes at a time, a GPU each; 0: one process, wherever the config says.
        """
        self.configs = {run: design.fitted(run, output_dir)[0] for run in design.runs()}
        self._design, self._output_dir = design, output_dir
        self._stop = Event()
        self._slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus()[:gpus]] or [{}]

    def run(self) -> list[dict[str, Any]]:
        """Train all that is missing, and return all results, in the design's order.

        Raises:
            TransferError: a run failed, or the folder holds runs of other settings. What else was
                under way is cut off, and goes on next time.
        """
        with only_run_in(str(self._output_dir)):
            keys = run_keys(self.configs)
            for run, key in keys.items():
                _check_same(self._output_dir / run.folder / KEY_FILE, key)
            self._train_missing(keys)
            return [
                result
                for run, key in keys.items()
                if (result := read_result(self._output_dir / run.folder, key)) is not None
            ]

    def _train_missing(self, keys: Mapping[Run, Key]) -> None:
        missing = [
            r for r, k in keys.items() if read_result(self._output_dir / r.folder, k) is None
        ]
        if len(missing) < len(keys):
            tqdm.write(f"{len(keys) - len(missing)} of {len(keys)} runs are finished already")
        waiting = iter(missing)  # all workers take from it
        with ThreadPoolExecutor(len(self._slots)) as pool:
            workers = [
                pool.submit(self._work, slot, waiting, keys) for slot in range(len(self._slots))
            ]
            try:
                for worker in as_completed(workers):
                    worker.result()
            finally:  # Ctrl-C, too: no training is left behind
                self._stop.set()

    def _work(self, slot: int, waiting: Iterator[Run], keys: Mapping[Run, Key]) -> None:
        for run in waiting:
            if not self._stop.is_set():
                self._train(run, keys[run], slot)

    def _train(self, run: Run, key: Key, slot: int) -> None:
        folder, cfg = self._output_dir / run.folder, self.configs[run]
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / KEY_FILE, key)
        with tqdm(
            total=cfg.SOLVER.MAX_ITER,
            desc=run.title,
            unit="it",
            position=slot,
            leave=False,
            dynamic_ncols=True,
            disable=None,
        ) as bar:
            tell = now_and_then(run.title, cfg.SOLVER.MAX_ITER)

            def show(done: int) -> None:
                done = min(done, cfg.SOLVER.MAX_ITER)
                bar.update(done - bar.n)
                if bar.disable:
                    tell(done)

            diverged = train(
                self._design.arguments(run, self._output_dir),
                folder,
                self._slots[slot],
                self._stop,
                show,
            )
        result = collect(run, folder, key, diverged)
        tqdm.write(f"{run.title}: {outcome(result, task_of(cfg))}")


def visible_gpus() -> list[str]:
    """The names of this process's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(gpu) for gpu in range(count)]


def train(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stop: Event,
    progress: Callable[[int], object],
) -> str:
    """Run the command ``train`` to its end, as a process; it resumes what ``folder`` holds.

    Args:
        folder: is there.
        environment: set beside this process's own.
        stop: set by another thread to end it.
        progress: told the iterations done, about twice a second.

    Returns "" for a run that finished, else one line on why its training diverged.

    Raises:
        TransferError: the run failed; shows the end of what it printed.
        Interrupted: ``stop`` was set.
    """
    arguments = [*arguments, "--resume"]
    with (folder / CONSOLE).open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(CHILD), str(os.getpid()), program("train"), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        try:
            while process.poll() is None:
                if stop.wait(0.5):
                    raise Interrupted
                progress(iterations_done(folder))
        finally:
            process.kill()
            process.wait()
    lines = (folder / CONSOLE).read_text(errors="replace").splitlines()
    if process.returncode == DIVERGED_STATUS:
        errors = [line for line in lines if line.startswith("error: ")] or ["training diverged"]
        return errors[-1].removeprefix("error: ")
    if process.returncode:
        shown, end = shlex.join(arguments), "\n".join(lines[-LAST_WORDS:])
        raise TransferError(f"{typed('train')} {shown}\nended with {process.returncode}:\n{end}")
    return ""


def iterations_done(folder: Path) -> int:
    """From ``metrics.json``, which detectron2 writes every 20 iterations."""
    metrics = folder / "metrics.json"
    text = metrics.read_text(errors="replace") if metrics.exists() else ""
    found = re.findall(r'"iteration": (\d+)\D', text)
    return int(found[-1]) + 1 if found else 0


def run_keys(configs: Mapping[Run, CfgNode]) -> dict[Run, Key]:
    """What each run's result depends on, but for the machine and the versions of libraries.

    Where the weights and the catalog lie does not matter: what is in them, now, does.
    """
    data = {names: _data_fingerprint(names) for names in set(map(_datasets, configs.values()))}
    return {
        run: {
            "config": config_hash(_without_places(cfg)),
            "data": data[_datasets(cfg)],
            "weights": weights_digest(cfg.MODEL.WEIGHTS)[:16],
        }
        for run, cfg in configs.items()
    }


def _without_places(cfg: CfgNode) -> CfgNode:
    content = editable(cfg)
    content.MODEL.WEIGHTS, content.DATASETS.CATALOG = "", ""
    return content


def _datasets(cfg: CfgNode) -> tuple[str, ...]:
    """All that a run's result depends on."""
    labels, data = cfg.MODEL.TRANSFER.PSEUDO_LABELS, cfg.DATASETS
    calibration = (labels.CALIBRATION_SET,) if labels.ENABLED and labels.CALIBRATION_SET else ()
    return (*data.TRAIN, *data.TEST, *data.TEST_BASE, *calibration)


def _data_fingerprint(names: tuple[str, ...]) -> str:
    """Of the annotations, and of the images as far as their files' sizes tell them apart."""
    digest = hashlib.sha256(dataset_fingerprint(names).encode())
    for name in names:
        for record in DatasetCatalog.get(name):
            digest.update(f"{os.path.getsize(record['file_name'])} ".encode())
    return digest.hexdigest()[:16]


def _check_same(path: Path, wanted: Key) -> None:
    found = read_record(path, wanted)
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise ConfigError(
            f"{path.parent} holds a run with another {' and '.join(differing)} than this study "
            "asks for. Choose another --output-dir, or remove that folder to train it again"
        )
