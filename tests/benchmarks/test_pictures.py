"""The benchmark's datasets are the same each time, and sound."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.pictures import write_detections, write_pictures
from transfer_maskrcnn.data.formats import FORMATS


def test_pictures_load_without_a_loss(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a", images=3, size=(48, 64), objects=5)
    loaded = FORMATS["coco"](str(path), str(path.parent), classes=None)
    assert (loaded.report.images_kept, loaded.report.instances_kept) == (3, 15)
    assert not loaded.report.left_out and not loaded.report.images_left_out
    again = write_pictures(tmp_path / "b", images=3, size=(48, 64), objects=5)
    assert path.read_text() == again.read_text()


def test_as_many_detections_as_asked_for(tmp_path: Path) -> None:
    path = write_pictures(tmp_path, images=2, size=(48, 64), objects=3)
    write_detections(path, tmp_path / "detections.json", detections=7)
    results = json.loads((tmp_path / "detections.json").read_text())
    assert [r["image_id"] for r in results] == [1] * 7 + [2] * 7
    assert all(r["segmentation"]["size"] == [48, 64] for r in results)
