"""A folder appears whole or not at all; images are copied as they are, under names of their own."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.export.base import copy_images, distinct_stems, new_folder
from transfer_maskrcnn.data.export.documents import COCO_FILE
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


@pytest.mark.slow
def test_a_kill_leaves_nothing_under_the_name(tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(MASKS)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "original"), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.*.part"))) == 1  # it had begun
    assert not (tmp_path / "out").exists()
    EXPORTERS["coco"](dataset, tmp_path / "out")
    assert (tmp_path / "out" / COCO_FILE).is_file()


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        # different names stay
        (["x/a.png", "x/b.png"], ["a", "b"]),
        # one name in two folders
        (["x/a.png", "y/a.png"], ["a", "y_a"]),
        # json and text files are named without the suffix
        (["x/a.png", "x/a.jpg"], ["a", "x_a"]),
        # in three folders of one name, too
        (["p/x/a.png", "q/x/a.png", "r/x/a.png", "s/x/a.png"], ["a", "x_a", "a_2", "a_3"]),
        # some file systems do not tell A from a
        (["x/a.png", "y/A.png"], ["a", "y_A"]),
        (["x/A.png", "y/a.png"], ["A", "y_a"]),
        (["x/a.png", "y/a.png", "y/A.png"], ["a", "y_a", "A_2"]),
        # a name that was made up may belong to a later file
        (["x/a.png", "y/a.png", "z/y_a.png"], ["a", "y_a", "z_y_a"]),
        # dots, spaces, no suffix
        (["x/a.b.png", "x/a c.png", "x/photo"], ["a.b", "a c", "photo"]),
    ],
)
def test_distinct_stems(files: list[str], stems: list[str]) -> None:
    assert distinct_stems(files) == stems


def test_copies_bytes(tmp_path: Path) -> None:
    source = tmp_path / "a b.JPG"
    Image.fromarray(PIXELS).save(source, "JPEG", comment=b"kept")
    copied = copy_images([str(source)], lambda stem: tmp_path / "out" / stem)
    assert copied.names == ("a b.JPG",)
    assert (tmp_path / "out" / "a b" / "a b.JPG").read_bytes() == source.read_bytes()
    assert copied.notes() == []


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_turned_by_exif(orientation: int, mode: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).convert(mode).save(source, exif=exif)
    copied = copy_images([str(source)], lambda stem: tmp_path / "out")
    assert copied.names == ("a.png",)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == ((20, 30) if orientation >= 5 else (30, 20))
        assert 0x0112 not in image.getexif()
    seen = [read_image(str(p), "RGB") for p in (source, tmp_path / "out" / "a.png")]
    assert (seen[0] == seen[1]).all()
    assert copied.notes() == ["Saved anew as PNG: 1 image turned by EXIF orientation."]


def test_a_suffix_that_tools_do_not_know(tmp_path: Path) -> None:
    source = tmp_path / "photo.jfif"
    Image.fromarray(PIXELS).save(source, "JPEG")
    copied = copy_images([str(source)], lambda stem: tmp_path / "out")
    assert copied.names == ("photo.png",)
    assert copied.notes() == ["Saved anew as PNG: 1 image with the suffix '.jfif'."]
    seen = [read_image(str(p), "RGB") for p in (source, tmp_path / "out" / "photo.png")]
    assert (seen[0] == seen[1]).all()


def test_says_what_was_renamed(tmp_path: Path) -> None:
    sources = [tmp_path / folder / "a.png" for folder in ("x", "y")]
    for k, source in enumerate(sources):
        source.parent.mkdir()
        Image.fromarray(PIXELS + k).save(source)
    copied = copy_images([str(source) for source in sources], lambda stem: tmp_path / "out")
    assert copied.names == ("a.png", "y_a.png") and copied.stems == ["a", "y_a"]
    assert copied.notes() == ["Renamed, since another had the same name: 1 image."]
