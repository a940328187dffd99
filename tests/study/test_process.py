"""One run as a process: resumed, watched, ended, and its failure shown."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.study import runner
from transfer_maskrcnn.study.runner import (
    Interrupted,
    iterations_done,
    train,
)

# Stands for study/child.py: writes its arguments, then does what the first of them says.
PROGRAM = """
import os, pathlib, sys, time
del sys.argv[1:3]  # the process that started it, and its name
print(sys.argv[1:], os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if sys.argv[1] == "fail":
    sys.exit("error: the dataset is empty")
if sys.argv[1] == "diverge":
    print("saved to output/diverged_before/model_0000001.pth")
    print("error: 9 weights hold NaN or infinity", file=sys.stderr)
    sys.exit(3)
if sys.argv[1] == "hang":
    time.sleep(60)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "child.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(runner, "CHILD", path)
    return path


def run(program: Path, what: str, stop: threading.Event | None = None) -> str:
    folder = program.parent / "out"
    folder.mkdir()
    return train(
        [what],
        folder,
        {"CUDA_VISIBLE_DEVICES": "3"},
        stop or threading.Event(),
        lambda done: None,
    )


def test_a_run_that_ends_well(program: Path) -> None:
    assert run(program, "ok") == ""
    console = (program.parent / "out" / "console.txt").read_text()
    assert console == "['ok', '--resume'] 3\n"


def test_a_failed_run_shows_its_last_words(program: Path) -> None:
    with pytest.raises(TransferError, match=r"ended with 1:\n.*\nerror: the dataset is empty"):
        run(program, "fail")


def test_a_run_that_diverged_is_a_result(program: Path) -> None:
    assert run(program, "diverge") == "9 weights hold NaN or infinity"


def test_stopping_ends_the_process_at_once(program: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run(program, "hang", stop)
    assert time.monotonic() - started < 10


def test_progress_is_read_from_a_file_that_is_being_written(tmp_path: Path) -> None:
    assert iterations_done(tmp_path) == 0
    (tmp_path / "metrics.json").write_text('{"iteration": 19}\n{"iteration": 39}\n{"itera')
    assert iterations_done(tmp_path) == 40


def test_the_child_is_the_command_train_of_this_package(tmp_path: Path) -> None:
    """In any folder, installed or not."""
    name = runner.program("train")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(runner.CHILD), str(os.getpid()), name, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert done.stdout.startswith(f"usage: {name} ")
