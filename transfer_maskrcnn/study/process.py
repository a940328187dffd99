"""One run of a study as a process of its own: started or resumed, watched, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from transfer_maskrcnn.cli import DIVERGED_STATUS
from transfer_maskrcnn.errors import TransferError

CHILD = Path(__file__).with_name("child.py")
CONSOLE = "console.txt"
LAST_WORDS = 15  # lines of a failed run's output


class Interrupted(Exception):
    """The study was told to stop; its runs go on from their checkpoints next time."""


def train(
    train_net: Path,
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    stop: Event,
    progress: Callable[[int], None],
) -> str:
    """Run ``train_net`` to its end; it resumes what ``folder`` holds.

    Args:
        environment: set beside this process's own.
        stop: set by another thread to end it.
        progress: told the iterations done, about twice a second.

    Returns "" for a run that finished, else one line on why its training diverged.

    Raises:
        TransferError: the run failed; shows the end of what it printed.
        Interrupted: ``stop`` was set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(train_net), *arguments, "--resume"]
    bound = [sys.executable, str(CHILD), str(os.getpid()), *command[1:]]
    with (folder / CONSOLE).open("w") as out:
        process = subprocess.Popen(
            bound,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        try:
            while process.poll() is None:
                if stop.wait(0.5):
                    raise Interrupted
                progress(iterations_done(folder))
                drop_older_checkpoints(folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    lines = (folder / CONSOLE).read_text(errors="replace").splitlines()
    if process.returncode == DIVERGED_STATUS:
        errors = [line for line in lines if line.startswith("error: ")] or ["training diverged"]
        return errors[-1].removeprefix("error: ")
    if process.returncode:
        end = "\n".join(lines[-LAST_WORDS:])
        raise TransferError(f"{' '.join(command)}\nended with {process.returncode}:\n{end}")
    return ""


def iterations_done(folder: Path) -> int:
    """From ``metrics.json``, which detectron2 writes every 20 iterations."""
    metrics = folder / "metrics.json"
    if not metrics.exists():
        return 0
    done = 0
    for line in metrics.read_text(errors="replace").splitlines():
        try:
            done = int(json.loads(line)["iteration"]) + 1
        except (ValueError, KeyError):  # the line being written
            continue
    return done


def drop_older_checkpoints(folder: Path) -> None:
    """Remove all checkpoints but the last, which is what --resume needs."""
    tag = folder / "last_checkpoint"
    if tag.exists():
        last = tag.read_text().strip()
        for path in folder.glob("model_[0-9]*.pth"):
            if path.name < last or last == "model_final.pth":
                path.unlink(missing_ok=True)
