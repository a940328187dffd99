from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.export.documents import COCO_FILE
from transfer_maskrcnn.data.formats import LoadedDataset, load_coco_json
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.masks import polygons_to_rle
from transfer_maskrcnn.doctor.fix import Change, repair
from transfer_maskrcnn.errors import DatasetError

SIDE = 64
SQUARE = [10.0, 10, 40, 10, 40, 40, 10, 40]
BOX, AREA = [10, 10, 30, 30], 900
CROWD = {"size": [SIDE, SIDE], "counts": [40, 600, SIDE * SIDE - 640]}
SOUND = {"segmentation": [SQUARE], "bbox": BOX, "area": AREA}
Load = Callable[..., LoadedDataset]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(annotation, ...) -> a dataset of two images; annotations are of 1.png unless they say
    otherwise, 2.png is missing on disk, 3.png has no objects."""

    def load(*annotations: dict[str, Any], orientation: int = 1) -> LoadedDataset:
        root = tmp_path / "original"
        root.mkdir()
        exif = Image.Exif()
        exif[0x0112] = orientation
        for number in (1, 3):
            pixels = np.full((SIDE, SIDE, 3), number, np.uint8)
            Image.fromarray(pixels).save(root / f"{number}.png", exif=exif)
        content = {
            "images": [{"id": k, "file_name": f"{k}.png"} for k in (1, 2, 3)],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 1, "iscrowd": 0, **annotation}
                for k, annotation in enumerate(annotations)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        (root / "a.json").write_text(json.dumps(content))
        return load_coco_json(root / "a.json", root)

    return load


def digests(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def reload(out: Path) -> LoadedDataset:
    return load_coco_json(out / COCO_FILE, out / "images")


BOW_TIE = [10.0, 10, 40, 40, 40, 10, 10, 40]
FAULTS = [
    # a sound one: only the image that is missing
    ([SOUND], []),
    # what the loader leaves out or mends
    (
        [{**SOUND, "image_id": 2, "id": k} for k in "ab"],
        [("2.png", "", Reason.IN_LEFT_OUT_IMAGE)],
    ),
    ([{"bbox": BOX}], [("1.png", "annotations[0]", Reason.NO_MASK)]),
    (
        [{**SOUND, "image_id": 77}],
        [("", "annotations[0]: image_id 77", Reason.UNKNOWN_IMAGE)],
    ),
    (
        [{**SOUND, "bbox": [0, 0, 0, 0]}],
        [("1.png", "annotations[0]", Reason.BOX_RECOMPUTED)],
    ),
    (
        [{**SOUND, "segmentation": [SQUARE[:2] + SQUARE]}],
        [("1.png", "annotations[0]", Reason.REPEATED_POINTS)],
    ),
    (
        [{"segmentation": [[40.0, 40, 90, 40, 90, 60, 40, 60]]}],
        [
            ("1.png", "annotations[0]", Reason.CLIPPED),
            ("1.png", "annotations[0]", Reason.BOX_RECOMPUTED),
        ],
    ),
    (
        [{**SOUND, "area": 9}],
        [("1.png", "annotations[0]: area 9, the mask has 900", Reason.AREA_MISMATCH)],
    ),
    (
        [SOUND, {**SOUND, "category_id": 2, "id": 0}],
        [("", "annotations[1]: id 0", Reason.DUPLICATE_ID)],
    ),
    # what only a look at masks finds
    ([{**SOUND, "area": 912}], [("1.png", "annotations[0]", "area_wrong")]),
    ([{**SOUND, "area": 908}], []),
    (
        [SOUND, {**SOUND, "bbox": [8, 10, 32, 30]}, {**SOUND, "category_id": 2}],
        [
            ("1.png", "annotations[1]", "box_off"),
            ("1.png", "annotations[1]", "duplicate"),
        ],
    ),
    ([{**SOUND, "bbox": [10.9, 10, 28.2, 30]}], []),
    (
        [{"segmentation": [BOW_TIE], "bbox": BOX}],
        [("1.png", "annotations[0]", "self_crossing")],
    ),
    (
        [{**SOUND, "segmentation": [SQUARE, SQUARE]}],
        [("1.png", "annotations[0]", "overlapping")],
    ),
    # nothing that could be put in its place: it covers no pixel's centre
    (
        [
            {
                "segmentation": [[9.6, 9.6, 9.9, 9.9, 9.9, 9.6, 9.6, 9.9]],
                "bbox": [9.6, 9.6, 0.3, 0.3],
            }
        ],
        [],
    ),
    # crowds: a crowd region is no duplicate of an instance, and may be one of a crowd
    ([{**SOUND, "iscrowd": 1}, SOUND], []),
    (
        [{"segmentation": CROWD, "bbox": [0, 0, 10, 64], "iscrowd": 1}] * 2 + [SOUND],
        [("1.png", "annotations[1]", "duplicate")],
    ),
]


@pytest.mark.parametrize(("annotations", "expected"), FAULTS)
def test_changes(
    annotations: list[dict[str, Any]],
    expected: list[tuple[str, str, str]],
    load: Load,
    tmp_path: Path,
) -> None:
    dataset = load(*annotations)
    before = digests(tmp_path / "original")
    changes = repair(dataset, tmp_path / "out")
    assert digests(tmp_path / "original") == before
    found = {(Path(change.image).name, change.place, change.kind) for change in changes}
    assert found == {("2.png", "", Reason.IMAGE_MISSING), *expected}
    assert len(changes) == len(found)

    copy = reload(tmp_path / "out")
    assert not (copy.report.left_out or copy.report.images_left_out or copy.report.repaired)
    assert [Path(record["file_name"]).name for record in copy.dicts] == ["1.png", "3.png"]
    assert repair(copy, tmp_path / "again") == []
    texts = [(tmp_path / out / COCO_FILE).read_text() for out in ("out", "again")]
    assert texts[0] == texts[1]


def test_log(load: Load, tmp_path: Path) -> None:
    changes = repair(load({**SOUND, "area": 950}, SOUND, {"bbox": BOX}), tmp_path / "out")
    image = str(tmp_path / "original" / "1.png")
    assert changes == [
        Change(str(tmp_path / "original" / "2.png"), "", "image_missing"),
        Change(image, "annotations[2]", "no_mask"),
        Change(image, "annotations[0]", "area_wrong", 950, 900),
        Change(image, "annotations[1]", "duplicate", [SQUARE], None),
    ]
    written = json.loads((tmp_path / "out" / "changes.json").read_text())
    assert all(change.pop("what") for change in written)  # the same in words
    assert [Change(**change) for change in written] == changes
    assert reload(tmp_path / "out").dicts[0]["annotations"][0]["area"] == 900


def test_a_bow_tie_keeps_the_mask_that_training_sees(load: Load, tmp_path: Path) -> None:
    (_, change) = repair(load({"segmentation": [BOW_TIE], "bbox": BOX}), tmp_path / "out")
    assert change.before == [BOW_TIE]
    masks = [polygons_to_rle(polygons, SIDE, SIDE) for polygons in (change.before, change.after)]
    assert masks[0] == masks[1]
    (annotation,) = reload(tmp_path / "out").dicts[0]["annotations"]
    assert annotation["segmentation"] == change.after
    assert annotation["area"] == pytest.approx(450, abs=30)


def test_turned_images_are_changes_too(load: Load, tmp_path: Path) -> None:
    changes = repair(load(SOUND, orientation=3), tmp_path / "out")
    assert [(Path(change.image).name, change.kind) for change in changes[1:]] == [
        ("1.png", "image_saved_anew"),
        ("3.png", "image_saved_anew"),
    ]
    with Image.open(tmp_path / "out" / "images" / "1.png") as image:
        assert 0x0112 not in image.getexif()


def test_places_beyond_those_kept_are_counted(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer_maskrcnn.data.formats.base._MOST_PLACES", 2)
    changes = repair(load(SOUND, *[{"bbox": BOX}] * 5), tmp_path / "out")
    places = [(change.place, change.count) for change in changes if change.kind == Reason.NO_MASK]
    assert places == [("annotations[1]", 4), ("annotations[2]", 1)]


def test_a_folder_with_files_is_left_alone(load: Load, tmp_path: Path) -> None:
    dataset = load(SOUND)
    before = digests(tmp_path)
    with pytest.raises(DatasetError, match="nothing is overwritten"):
        repair(dataset, tmp_path / "original")
    assert digests(tmp_path) == before
