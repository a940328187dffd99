"""A folder appears whole or not at all, and nothing of the user's is overwritten."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.export.base import new_folder
from transfer_maskrcnn.errors import DatasetError

from .conftest import MASKS, MakeDataset

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.formats import load_coco_json

def copyfile(source, target, copy=shutil.copyfile):
    copy(source, target)
    os.kill(os.getpid(), signal.SIGKILL)

shutil.copyfile = copyfile
dataset = load_coco_json(Path(sys.argv[1], "a.json"), Path(sys.argv[1], "images"))
EXPORTERS["coco"](dataset, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("format", EXPORTERS)
def test_an_existing_folder_is_left_alone(
    format: str, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset(MASKS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"out is a folder with files in it; expected .* empty"):
        EXPORTERS[format](dataset, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(DatasetError, match=r"mine\.txt is a file; expected a folder"):
        EXPORTERS[format](dataset, tmp_path / "out" / "mine.txt")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_empty_folder_and_missing_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        with new_folder(out) as folder:
            (folder / "file").touch()
        assert (out / "file").is_file()
        assert [path.name for path in out.parent.glob(".*")] == []


def test_a_folder_that_fills_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(OSError), new_folder(tmp_path / "out") as folder:
        (folder / "ours").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


@pytest.mark.parametrize("call", ["copyfile", "write_text"])
@pytest.mark.parametrize("format", EXPORTERS)
def test_a_full_disk_leaves_nothing(
    format: str,
    call: str,
    tmp_path: Path,
    make_dataset: MakeDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = make_dataset(MASKS)
    before = sorted(tmp_path.rglob("*"))

    def full(path: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(*((shutil, call) if call == "copyfile" else (Path, call)), full)
    with pytest.raises(OSError, match="No space left"):
        EXPORTERS[format](dataset, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kill_leaves_nothing_under_the_name(tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(MASKS)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "original"), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.*.part"))) == 1  # it had begun
    assert not (tmp_path / "out").exists()
    EXPORTERS["coco"](dataset, tmp_path / "out")
    assert (tmp_path / "out" / "annotations.json").is_file()
