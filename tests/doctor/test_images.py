import os
import signal
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.near_duplicates import LENGTH
from transfer_maskrcnn.doctor import images
from transfer_maskrcnn.doctor.images import image_facts, look_at_images
from transfer_maskrcnn.errors import DatasetError

from .conftest import HEIGHT, WIDTH, blob, picture


@pytest.fixture
def records(tmp_path):
    found = []
    for i in range(40):
        file = str(tmp_path / f"{i}.png")
        cv2.imwrite(file, picture(i))
        annotation = {
            "bbox": [10, 10, 30, 30],
            "bbox_mode": 0,
            "category_id": 0,
            "segmentation": [blob(20, 20, 1.0 if i == 7 else 10.0)],
        }
        found.append(
            {"file_name": file, "height": HEIGHT, "width": WIDTH, "annotations": [annotation]}
        )
    return found


def _mapper(record) -> None:
    if record["file_name"].endswith("5.png"):
        raise RuntimeError(f"in process {os.getpid()}\nof image {record['file_name']}")


def test_processes_find_what_one_finds_in_the_same_order(records, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    parallel = look_at_images("toy", records, [1.0] * 40, _mapper)
    monkeypatch.setattr(images, "_FEWEST_FOR_PROCESSES", 100)
    single = look_at_images("toy", records, [1.0] * 40, _mapper)
    assert [faults for _, faults in parallel] == [faults for _, faults in single]
    assert [facts.digest for facts, _ in parallel] == [facts.digest for facts, _ in single]
    assert [kind for kind, *_ in parallel[7][1]] == ["tiny", "box_apart"]
    failed = [i for i, (facts, _) in enumerate(parallel) if facts.failure]
    assert failed == [5, 15, 25, 35]
    message = parallel[5][0].failure
    assert message.startswith("RuntimeError: in process") and "\n" not in message
    assert str(os.getpid()) not in message  # it was another process


def _kill(parent, record):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_of(records, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with pytest.raises(DatasetError, match=r"'toy': a process .* was killed"):
        look_at_images("toy", records, [1.0] * 40, partial(_kill, os.getpid()))


def _save(path: Path, image: Image.Image) -> dict[str, str]:
    image.save(path)
    return {"file_name": str(path)}


PIXELS = {
    "RGB": ("colour", False),
    "L": ("grey", False),
    "1": ("grey", False),
    "P": ("colour", False),
    "RGBA": ("colour", False),  # opaque
}


@pytest.mark.parametrize("mode", PIXELS)
def test_kinds_of_pixels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(picture(1)).convert(mode)
    facts = image_facts(_save(tmp_path / "a.png", image), lambda record: None)
    assert (facts.pixels, facts.transparent) == PIXELS[mode]
    assert facts.failure == "" and facts.orientation == 1 and len(facts.thumb) == LENGTH


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetError("cannot use image a.png"), "cannot use image a.png"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_what_the_mapper_says(error: Exception, message: str, tmp_path: Path) -> None:
    def mapper(record: dict[str, str]) -> None:
        raise error

    record = _save(tmp_path / "a.png", Image.fromarray(picture(1)))
    assert image_facts(record, mapper).failure == message


def test_a_file_that_vanished(tmp_path: Path) -> None:
    facts = image_facts({"file_name": str(tmp_path / "a.png")}, lambda record: None)
    assert "FileNotFoundError" in facts.failure and facts.thumb == b""


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), mode="P")
    image.putpalette([k for k in range(256) for _ in range(3)])
    image.save(tmp_path / "a.png", transparency=3)
    facts = image_facts({"file_name": str(tmp_path / "a.png")}, lambda record: None)
    assert facts.transparent
