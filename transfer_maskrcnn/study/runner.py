"""Runs a study's trainings, as many at a time as there are GPUs, each of them once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import torch
from tqdm import tqdm

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.study.design import Design, Run, run_key
from transfer_maskrcnn.study.process import Interrupted, train
from transfer_maskrcnn.study.results import (
    DIVERGED,
    collect,
    read_record,
    read_result,
    task_of,
    unfinished_files,
)

KEY_FILE = "study_run.json"
LOCK_FILE = ".study.lock"


class StudyRunner:
    """Trains what is missing from a study's folder.

    A run that has ended is not run again; one that was cut off goes on from its last checkpoint.
    """

    def __init__(self, design: Design, output_dir: Path, train_net: Path, gpus: int = 0):
        """
        Args:
            design: what to run.
            output_dir: the study's folder.
            train_net: the path of ``tools/train_net.py``.
            gpus: processes at a time, a GPU each; 0: one process, wherever the config says.
        """
        self.design, self.output_dir = design, output_dir
        self._train_net = train_net
        self._slots: list[dict[str, str]] = [
            {"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus()[:gpus]
        ] or [{}]
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self) -> list[dict[str, Any]]:
        """Train all that is missing, and return all results, in the design's order.

        Raises:
            TransferError: a run failed, or the folder holds runs of other settings. What else was
                under way is cut off, and goes on next time.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with locked(self.output_dir / LOCK_FILE):
            return self._run()

    def _run(self) -> list[dict[str, Any]]:
        keys = self._keys()
        waiting: Queue[Run] = Queue()
        for run in self.design.runs():
            if self._result(run, keys[run]) is None:
                waiting.put(run)
        done = len(keys) - waiting.qsize()
        if done:
            tqdm.write(f"{done} of {len(keys)} runs are finished already")
        workers = [
            threading.Thread(target=self._work, args=(slot, waiting, keys), daemon=True)
            for slot in range(len(self._slots))
        ]
        with self._stopping_at_the_end():
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
        if self._errors:
            raise self._errors[0]
        return [result for run in keys if (result := self._result(run, keys[run]))]

    @contextlib.contextmanager
    def _stopping_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:  # Ctrl-C, too: no training is left behind
            self._stop.set()

    def _keys(self) -> dict[Run, dict[str, str]]:
        """The key of every run, compared with what the folder holds."""
        keys = {
            run: run_key(self.design.config(run, self.output_dir)) for run in self.design.runs()
        }
        for run, key in keys.items():
            path = self.output_dir / run.folder / KEY_FILE
            if path.exists():
                _check_same(path, read_record(path), key)
        return keys

    def _result(self, run: Run, key: dict[str, str]) -> dict[str, Any] | None:
        return read_result(self.output_dir / run.folder, key)

    def _work(self, slot: int, waiting: Queue[Run], keys: dict[Run, dict[str, str]]) -> None:
        while not self._stop.is_set():
            try:
                run = waiting.get_nowait()
                self._train(run, keys[run], slot)
            except (Empty, Interrupted):
                return
            except BaseException as error:  # passed on by run(), in its own thread
                self._errors.append(error)
                self._stop.set()

    def _train(self, run: Run, key: dict[str, str], slot: int) -> None:
        folder = self.output_dir / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / KEY_FILE, key)
        for path in unfinished_files(folder):
            path.unlink()
        cfg = self.design.config(run, self.output_dir)
        arguments = self.design.arguments(run, self.output_dir)
        with tqdm(
            total=cfg.SOLVER.MAX_ITER,
            desc=run.title,
            unit="it",
            position=slot,
            leave=False,
            dynamic_ncols=True,
            disable=None,
        ) as bar:
            diverged = train(
                self._train_net,
                arguments,
                folder,
                self._slots[slot],
                self._stop,
                lambda done: _advance(bar, done),
            )
        collect(run, folder, cfg, key, diverged)
        result = self._result(run, key) or {}
        tqdm.write(f"{run.title}: {_outcome(result, task_of(cfg))}")


def visible_gpus() -> list[str]:
    """The names of this process's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(gpu) for gpu in range(count)]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` for one study at a time; the lock ends with the process.

    Raises:
        ConfigError: another process holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another study is running in {path.parent}: wait until it has ended, or choose "
                "another --output-dir"
            ) from None
        yield


def _advance(bar: tqdm[Any], done: int) -> None:
    bar.update(min(done, bar.total or done) - bar.n)


def _outcome(result: dict[str, Any], task: str) -> str:
    if result["status"] == DIVERGED:
        return str(result["message"])
    kind = "mask" if task == "segm" else "box"
    return f"{kind} AP {result['results'].get(f'{task}/AP') or 0:.1f}"


def _check_same(path: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise ConfigError(
            f"{path.parent} holds a run with another {' and '.join(differing)} than this study "
            "asks for. Choose another --output-dir, or remove that folder to train it again"
        )
