"""Detections on disk: what is whole is found again, whatever happened while they were written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.incremental.detection_store import DetectionStore, file_digest

ONE, TWO = "1" * 64, "2" * 64
DETECTIONS = [{"category_id": 3, "score": 0.123456789, "bbox": [1.0, 2.5, 3.0, 4.0]}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "store.jsonl"
    store = DetectionStore(path)
    store.add(ONE, DETECTIONS)
    store.add(TWO, [])
    assert store.get(ONE) == DETECTIONS and store.get(TWO) == []
    return path


def test_found_again(path: Path) -> None:
    store = DetectionStore(path)
    assert len(store) == 2 and store.get(ONE) == DETECTIONS and store.get(TWO) == []


def test_cut_off_anywhere(path: Path) -> None:
    """A kill leaves the beginning of a line; the lines before it are whole, and adding goes on."""
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        store = DetectionStore(path)
        assert (ONE in store) == (end >= first) and TWO not in store
        store.add(TWO, DETECTIONS)
        again = DetectionStore(path)
        assert store.get(TWO) == again.get(TWO) == DETECTIONS
        # the line was whole but for its end, which the next line brings
        assert (ONE in again) == (end >= first - 1)


def test_a_damaged_byte_loses_one_image(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(whole.index(b"\n")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        store = DetectionStore(path)
        assert ONE not in store or store.get(ONE) == DETECTIONS
        assert TWO in store


def test_two_writers(path: Path) -> None:
    one, other = DetectionStore(path), DetectionStore(path)
    for number in range(10):
        one.add(f"{number:064x}", DETECTIONS)
        other.add(f"{number + 100:064x}", DETECTIONS)
    both = DetectionStore(path)
    for number in range(10):
        assert both.get(f"{number:064x}") == both.get(f"{number + 100:064x}") == DETECTIONS


def test_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is written; the error names the file, and what was there stays."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, line: write(handle, line[: len(line) // 2]))
    store = DetectionStore(path)
    with pytest.raises(OSError, match=r"store\.jsonl") as caught:
        store.add("3" * 64, DETECTIONS)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    again = DetectionStore(path)
    assert len(again) == 2 and again.get(ONE) == DETECTIONS


def test_unknown_image(path: Path) -> None:
    with pytest.raises(TransferError, match="no detections of the image with digest 333333333333"):
        DetectionStore(path).get("3" * 64)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    a, b, c = (file_digest(tmp_path / name) for name in "abc")
    assert a == b != c
