"""A run's source is the same file wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.surgery.hook import began_with, moved, with_digest
from transfer_maskrcnn.surgery.load import weights_digest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.pth"
    path.write_bytes(b"weights")
    shutil.copy(path, tmp_path / "copy.pth")
    (tmp_path / "link.pth").symlink_to(path)
    (tmp_path / "other.pth").write_bytes(b"other weights")
    return path


@pytest.fixture
def metadata(source: Path) -> dict[str, Any]:
    return {"transfer": with_digest({"source": str(source), "keep": "class_rows"})}


SAME = [
    # where it was
    ("source.pth", True),
    # the same place, spelled otherwise
    ("./source.pth", True),
    ("link.pth", True),
    # the same content elsewhere, also with detectron2's mark behind it
    ("copy.pth", True),
    ("copy.pth?matching_heuristics=True", True),
    # other content, and no file
    ("other.pth", False),
    ("nowhere.pth", False),
]


@pytest.mark.parametrize(("name", "same"), SAME)
def test_the_same_file(metadata: dict[str, Any], source: Path, name: str, same: bool) -> None:
    weights = f"{source.parent}/{name}"
    assert began_with(metadata, weights) == same
    found = moved(metadata, weights)
    assert found and found["source"] == (weights if same else str(source))
    assert found["keep"] == "class_rows" and metadata["transfer"]["source"] == str(source)


def test_a_source_that_is_gone(metadata: dict[str, Any], source: Path) -> None:
    source.unlink()
    assert began_with(metadata, str(source)), "what else should its path mean?"
    assert began_with(metadata, str(source.with_name("copy.pth")))
    assert weights_digest(str(source)) == ""


# no metadata, a run without surgery, one from random weights
@pytest.mark.parametrize("metadata", [None, {}, {"transfer": None}, {"transfer": {"source": ""}}])
def test_no_source(metadata: dict[str, Any] | None, source: Path) -> None:
    assert not began_with(metadata, str(source)) and not began_with(metadata, "")
    assert moved(metadata, str(source)) == (metadata or {}).get("transfer")
