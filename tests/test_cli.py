"""How tools end: their exit status, and what stays on stderr."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer_maskrcnn.cli import Folded, progress, run_tool
from transfer_maskrcnn.errors import ConfigError, TransferError
from transfer_maskrcnn.files import atomic_path

SCRIPT = """
import sys, time
from transfer_maskrcnn.cli import run_tool
def main():
    {body}
run_tool(main, "the same command goes on")
"""


def _heed_ctrl_c() -> None:
    """What runs in the background of a shell ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(body: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=_heed_ctrl_c,
    )


def _raise(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("MAX_ITER is -1; expected a positive number"), "error: MAX_ITER is -1"),
        (OSError(28, "No space left on device"), "error: .*No space left on device"),
    ],
)
def test_a_users_mistake_is_one_line(error: BaseException, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run_tool(_raise(error))


def test_our_own_mistake_keeps_its_stack() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(_raise(ZeroDivisionError()))


@pytest.mark.parametrize("status", [None, 0])
def test_success_goes_on(status: int | None) -> None:
    called: list[str] = []

    def main() -> int | None:
        called.append("main")
        return status

    run_tool(main)  # no SystemExit
    assert called == ["main"]


def test_a_status_is_passed_on() -> None:
    with pytest.raises(SystemExit) as stopped:
        run_tool(lambda: 3)
    assert stopped.value.code == 3


# what the machine does to a program, in the words of torch and of the system
OUTSIDE = [
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "NUM_WORKERS"),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "NUM_WORKERS"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "IMS_PER_BATCH"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "IMS_PER_BATCH"),
    (MemoryError(), "IMS_PER_BATCH"),
]


@pytest.mark.parametrize(("error", "key"), OUTSIDE)
def test_what_the_machine_does_is_told_in_a_line(error: Exception, key: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_tool(_raise(error), "go on")
    said = str(stopped.value.code)
    assert said.startswith("error: ") and "; go on (" in said and key in said and "\n" not in said


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    """The text is written when it is closed, which fails a second time, and knows no name."""

    def main() -> int:
        with atomic_path(tmp_path / "a.txt"):
            try:
                raise OSError(28, "No space left on device")
            finally:
                raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit) as stopped:
        run_tool(main)
    assert "a.txt" in str(stopped.value.code)


def test_a_worker_that_was_terminated_with_all_is_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    with pytest.raises(SystemExit) as stopped:
        run_tool(_raise(error))
    assert (stopped.value.code, capsys.readouterr().err) == (143, "terminated\n")


def test_the_programs_own_faults_keep_their_trace() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run_tool(_raise(RuntimeError("a bug")))


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("for i in range(100_000): print('x' * 80)")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def test_a_reader_that_goes_away_before_the_last_flush() -> None:
    process = start("sys.stdin.read(); print('x')")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


@pytest.mark.parametrize(
    ("sent", "word", "status"),
    [
        (signal.SIGINT, "interrupted", 130),
        (signal.SIGTERM, "terminated", 143),  # of a scheduler, or a shutdown
    ],
)
def test_who_is_stopped_says_what_to_do(sent: signal.Signals, word: str, status: int) -> None:
    process = start("print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    assert process.stderr.read() == f"{word}; the same command goes on\n"
    assert process.wait(60) == status


def test_progress_in_a_file_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(progress(range(1200, 1212), "counting", 1200)) == list(range(1200, 1212))
    assert capsys.readouterr().err == "counting: 4 of 1,200\ncounting: 9 of 1,200\n"


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress((time.sleep(0) or i for i in range(3)), "counting", 3)) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_nothing_is_printed_on_import(repository: Path) -> None:
    """Every module of the package in one process, without what Linux alone has."""
    modules = sorted(
        ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        for path in (repository / "transfer_maskrcnn").rglob("*.py")
    )
    script = (
        "import importlib, os, sys\nimport torch, detectron2.engine  # they may\n"
        "del os.getuid, os.O_NOFOLLOW\n"
        "sys.modules.update(fcntl=None, resource=None, pwd=None)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "from transfer_maskrcnn.commands.train_net import train_parser\n"
        "train_parser()"
    )
    chosen = [name for name in modules if name != "transfer_maskrcnn.study.child"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *chosen],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_long_warnings_are_wrapped_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/data/" + "a" * 90 + ".json"
    plain = logging.Formatter("%(levelname)s: %(message)s")
    for level, lines in ((logging.WARNING, 5), (logging.INFO, 1)):
        record = logging.LogRecord("a", level, "", 0, f"{'word ' * 30}{path} end", (), None)
        shown = Folded(plain).format(record).split("\n")
        assert len(shown) == lines and any(path in line for line in shown)  # to be copied whole
        assert all(len(line) <= 80 or path in line for line in shown) or level == logging.INFO
    for is_terminal, most in ((True, 80), (False, 500)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer)
        with pytest.raises(SystemExit) as stopped:
            run_tool(_raise(TransferError("word " * 60)))
        assert most / 2 < max(map(len, str(stopped.value.code).split("\n"))) <= most
