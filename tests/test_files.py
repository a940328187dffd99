"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from transfer_maskrcnn import files
from transfer_maskrcnn.errors import DatasetError, nearest
from transfer_maskrcnn.files import (
    atomic_folder,
    atomic_path,
    file_digest,
    write_json,
    write_text,
)


def test_json_has_null_where_it_has_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ap": [math.nan, 1.5], "worst": -math.inf})
    assert json.loads((tmp_path / "a.json").read_text()) == {"ap": [None, 1.5], "worst": None}


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.touch(mode=0o600)  # as safetensors makes its files
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_keeps_what_was_there_and_leaves_no_litter(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, signal, sys
from transfer_maskrcnn.files import atomic_folder, atomic_path
with (atomic_folder if sys.argv[2] == "folder" else atomic_path)(sys.argv[1]) as unfinished:
    (unfinished / "half" if sys.argv[2] == "folder" else unfinished).write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a"), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"half\n"
        for alive in (True, False):
            monkeypatch.setattr(files, "_swept", set())
            write_text(tmp_path / "b", "b")
            assert len([p for p in tmp_path.iterdir() if p.suffix == ".part"]) == alive
            process.kill()
            process.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_another_machine_s_files_are_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / ".a.another-host.7.xyz.part"
    theirs.touch()
    write_text(tmp_path / "b", "b")
    assert theirs.exists()


def test_a_temporary_name_cannot_be_taken_beforehand(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with atomic_path(tmp_path / ("n" * 250)) as temporary:
            assert temporary.stat().st_mode & 0o077 == 0  # nobody else reads what is unfinished
            names.add(temporary.name)
    assert len(names) == 2


# what a full disk looks like, by who writes
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),  # write() knows no name
    OSError(errno.EFBIG, "File too large"),
    SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left" })'),
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_told_with_the_path(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.bin"):
        raise error
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_an_error_names_the_file_that_the_user_knows(tmp_path: Path, make: Any) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError) as caught, make(tmp_path / "a"):
            pass
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.filename == str(tmp_path / "a")


def test_an_error_out_of_a_loader_worker_keeps_only_its_own_words() -> None:
    wrapped = (
        "Caught DatasetError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "x.py", line 1\ntransfer_maskrcnn.errors.DatasetError: cannot use a.png\n'
    )
    assert str(DatasetError(wrapped)) == "cannot use a.png"
    assert str(DatasetError("plain")) == "plain"


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("baloon", ["balloon", "kudzu"], "; did you mean 'balloon'?"),
        ("zebra", ["balloon", "kudzu"], ""),  # nothing near: no guess
    ],
)
def test_nearest(word: str, known: list[str], said: str) -> None:
    assert nearest(word, known) == said


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    a, b, c = (file_digest(tmp_path / name) for name in "abc")
    assert a == b != c
