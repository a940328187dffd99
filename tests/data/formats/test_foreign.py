"""Annotation files of other tools are named, with what helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.foreign import describe
from transfer_maskrcnn.errors import DatasetError

COCO = "export them as COCO json"
CVAT = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>'
VOC = "<annotation>\n\t<folder>images</folder>\n"
VIA_CSV = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes"
LABELBOX = {"data_row": {"id": "x"}, "media_attributes": {}, "projects": {}}


@pytest.mark.parametrize(
    "data, words",
    [
        ([{"id": 1, "data": {"image": "/data/upload/a.jpg"}, "annotations": []}], "Label Studio"),
        ([{"image": "a.jpg", "annotation_id": 1, "annotator": 1, "tag": []}], "Label Studio"),
        ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
        ({"classes": [], "tags": []}, "Supervisely"),
        ({"info": {"description": "ISAT"}, "objects": []}, "ISAT"),
        ({"info": {}, "categories": {"label": {}}, "items": []}, "datum convert"),
        ({"images": [], "annotations": [{"segments_info": []}]}, "COCO panoptic"),
        ({"images": [], "annotations": []}, "format: coco"),
        ({"project": {}, "metadata": {}, "view": {}}, "VIA 3"),
        ({"a": {"filename": "a.jpg", "regions": []}}, "format: via"),
        ([LABELBOX], "Labelbox"),
        ({"version": "2.0", "item": {}, "annotations": []}, "Darwin"),
        ([{"image": "a.jpg", "annotations": [{"label": "cat"}]}], "no outlines"),
        ({"imgHeight": 1, "imgWidth": 1, "objects": []}, "png_masks"),
        ({"project_name": "x", "images": [], "label_classes": []}, "Hasty"),
        ([{"name": "a.jpg", "labels": []}], "BDD"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "predictions"),
        ([{"x": 1}, {}], "a list of 2 objects with the keys x"),
        ({}, r"the keys (none)"),
        ([], "a list of 0 items"),
        (3, "3"),
    ],
)
def test_json_of_other_tools(data: Any, words: str) -> None:
    assert words in describe(data)


@pytest.mark.parametrize(
    "content, words",
    [
        (CVAT, "COCO 1.0"),
        ("<annotations>\n<version>1.1", "COCO 1.0"),
        (VOC, "SegmentationObject"),
        (VIA_CSV, "format: via"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "no outlines"),
        ("a,b,c\n1,2,3\n", COCO),
        ("ImageId,EncodedPixels\na,1 3\n", "run lengths"),
        (json.dumps(LABELBOX) + "\n" + json.dumps(LABELBOX), "one object a line, each a Labelbox"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("train: images\nnames: [cat]\n", "format: yolo"),
        (b"PK\x03\x04\x14\0\xff\xfe", "unzip it"),
        (b"\x1f\x8b\x08\xff", "unpack it"),
    ],
)
@pytest.mark.parametrize("format", ["coco", "via"])
def test_files_that_are_no_json(
    tmp_path: Path, format: str, content: str | bytes, words: str
) -> None:
    path = tmp_path / "export"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match="looks like") as error:
        FORMATS[format](path)
    assert words in str(error.value)


def test_a_panoptic_json_is_no_coco_json(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    segments = {"image_id": 1, "file_name": "a.png", "segments_info": []}
    path.write_text(json.dumps({"images": [], "annotations": [segments], "categories": []}))
    with pytest.raises(DatasetError, match=r"instances_\*.json"):
        FORMATS["coco"](path)
