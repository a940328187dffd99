"""Numbers from JSON files, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.json_files import metrics, number, numbers, pair, read_json


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(TransferError, match=r"x\.json cannot be read as JSON .*; repeat the run"):
        read_json(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (-1.5, -1.5),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),  # bool is an int to Python, and no number to a reader
        ("3", None),
    ],
)
def test_number(value: Any, expected: float | None) -> None:
    assert number(value) == expected


def test_minus_one_is_undefined_for_metrics_alone() -> None:
    assert metrics({"AP": -1, "AP50": 0}) == {"AP": None, "AP50": 0.0}
    assert numbers({"difference": -1}) == {"difference": -1.0}
    assert numbers(None) == {}


@pytest.mark.parametrize(
    ("value", "expected"), [([1, 2], (1.0, 2.0)), (None, None), ([1, None], None)]
)
def test_pair(value: Any, expected: tuple[float, float] | None) -> None:
    assert pair(value) == expected
