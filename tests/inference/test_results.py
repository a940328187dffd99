"""What a result says, and what can be made of it."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO

from transfer_maskrcnn.data.formats.labelme_via import load_labelme_json
from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.inference.results import Detection, Picture, Result, Results

NAMES = ["cat", "dog", "owl"]
# class, score, x0, y0, x1, y1
FOUND = [(2, 0.9, 10, 5, 30, 25), (0, 0.75, 0, 0, 8, 40)]


def result(*, path: Path | None = None, masks: bool = True, found: Any = FOUND) -> Result:
    """Rectangles in an image of 40 rows and 60 columns."""
    detections = []
    for index, score, x0, y0, x1, y1 in found:
        mask = np.zeros((40, 60), np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        rle = mask_util.encode(mask)
        text = {**rle, "counts": rle["counts"].decode()}
        box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
        detections.append(Detection(index, score, box, text if masks else None))
    pixels = np.full((40, 60, 3), (10, 20, 30), np.uint8)
    return Result(Picture(pixels, path, path.stem if path else "0"), detections, NAMES)


def test_arrays() -> None:
    one = result()
    assert (one.image_size, len(one)) == ((40, 60), 2)
    assert one.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 8, 40]]
    assert one.scores.tolist() == pytest.approx([0.9, 0.75])
    assert one.classes.tolist() == [2, 0] and one.names == ["owl", "cat"]
    assert [a.dtype for a in (one.boxes, one.scores, one.classes)] == [
        "float32",
        "float32",
        "int64",
    ]
    assert repr(one) == "<Result 0: owl 1, cat 1>"


def test_masks_are_decoded_once_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls, decode = result(), [], mask_util.decode
    monkeypatch.setattr(mask_util, "decode", lambda rles: calls.append(1) or decode(rles))
    assert not calls
    for _ in range(2):
        masks = one.masks
        assert masks is not None and masks.dtype == bool and masks.shape == (2, 40, 60)
        assert masks[0, 5:25, 10:30].all() and masks[0].sum() == 400
    assert calls == [1]
    assert result(masks=False).masks is None


def test_nothing_found() -> None:
    none = result(found=[])
    assert none.boxes.shape == (0, 4) and none.classes.shape == none.scores.shape == (0,)
    assert none.masks is not None and none.masks.shape == (0, 40, 60) and none.masks.dtype == bool
    assert none.names == none.to_coco() == none.rows() == none.to_labelme()["shapes"] == []
    assert (none.plot() == (30, 20, 10)).all(), "RGB"
    assert repr(none) == "<Result 0: nothing>"


def test_coco_results(tmp_path: Path) -> None:
    images = [
        {"id": n, **r.describe()} for n, r in enumerate([result(), result(found=[]), result()], 1)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    dataset = {"info": {}, "images": images, "annotations": [], "categories": categories}
    (tmp_path / "images.json").write_text(json.dumps(dataset))
    found = Results([result(), result(found=[]), result()]).to_coco()
    (tmp_path / "found.json").write_text(json.dumps(found))
    results = COCO(str(tmp_path / "images.json")).loadRes(str(tmp_path / "found.json"))
    assert [(a["image_id"], a["category_id"]) for a in results.anns.values()] == [
        *((1, 3), (1, 1), (3, 3), (3, 1))
    ]
    assert results.anns[1]["bbox"] == [10, 5, 20, 20]
    assert results.annToMask(results.anns[1]).sum() == 400
    assert "segmentation" not in result(masks=False).to_coco(7)[0]


@pytest.mark.parametrize("masks", [True, False])
def test_labelme_is_a_dataset(masks: bool, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(result().plot()).save(tmp_path / "a.png")
    document = result(path=tmp_path / "a.png", masks=masks).to_labelme()
    (tmp_path / "a.json").write_text(json.dumps(document))
    (record,) = load_labelme_json(tmp_path, tmp_path).dicts
    boxes = [annotation["bbox"] for annotation in record["annotations"]]
    assert np.allclose(boxes, [[10, 5, 30, 25], [0, 0, 8, 40]], atol=1)
    assert document["imageData"] is None, "the file has it"
    alone = result().to_labelme(masks=True)
    pixels = Image.open(io.BytesIO(base64.b64decode(alone["imageData"])))
    assert (np.asarray(pixels) == (30, 20, 10)).all() and alone["imagePath"] == "0.png"
    shapes = alone["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["mask", "mask"]


def test_rows_of_several_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "photos" / "a.jpg"
    Results([result(path=file), result(found=[]), result(masks=False)]).to_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["image", "class", "score", "x0", "y0", "x1", "y1", "area"]
    assert [list(row.values()) for row in rows] == [
        [str(file), "owl", "0.9", "10.0", "5.0", "30.0", "25.0", "400.0"],
        [str(file), "cat", "0.75", "0.0", "0.0", "8.0", "40.0", "320.0"],
        ["0", "owl", "0.9", "10.0", "5.0", "30.0", "25.0", "400.0"],
        ["0", "cat", "0.75", "0.0", "0.0", "8.0", "40.0", "320.0"],
    ]
    assert isinstance(Results([result(), result()])[:1], Results)
    result(path=file).to_csv(tmp_path / "b.csv")
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 3


def test_plots_are_rgb_and_leave_the_image_alone() -> None:
    one = result()
    drawn = one.plot()
    assert drawn.shape == (40, 60, 3) and drawn.flags.c_contiguous
    assert drawn[38, 58].tolist() == [30, 20, 10]
    assert (drawn[:, :, ::-1] == one.plot_bgr()).all()
    assert one.pixels is not None and (one.pixels == (10, 20, 30)).all()


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(Detections=lambda **content: content)
    monkeypatch.setitem(sys.modules, "supervision", made)
    found = result().to_supervision()
    assert found["xyxy"].tolist() == [[10, 5, 30, 25], [0, 0, 8, 40]]
    assert found["mask"].shape == (2, 40, 60) and found["class_id"].tolist() == [2, 0]
    assert found["confidence"].tolist() == pytest.approx([0.9, 0.75])
    assert found["data"]["class_name"].tolist() == ["owl", "cat"]
    assert result(masks=False).to_supervision()["mask"] is None
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(TransferError, match="pip install supervision"):
        result().to_supervision()
