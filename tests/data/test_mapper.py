"""An image that cannot be read any more ends a run with one clear error, out of a worker too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import Augmentation
from detectron2.structures import BoxMode
from PIL import Image

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper, MapperForCheck
from transfer_maskrcnn.data.registry import DatasetFacts, dataset_facts
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import DatasetError

MAPPER = CheckedDatasetMapper(is_train=False, augmentations=[], image_format="BGR")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_went_missing(workers: int, tmp_path: Path) -> None:
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 8, "width": 8}
    loader = build_detection_test_loader([record], mapper=MAPPER, num_workers=workers)
    with pytest.raises(DatasetError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith(f"cannot use image {tmp_path}/a.png: ")
    assert "Traceback" not in str(caught.value)
    assert "--resume" in str(caught.value)


class Broken(Augmentation):
    def get_transform(self, image: Any) -> Any:
        raise ValueError("broken")


def record_of(tmp_path: Path, size: int = 8) -> dict[str, Any]:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rle = mask_util.encode(np.eye(8, dtype=np.uint8, order="F"))
    annotation = {"bbox": [0, 0, 8, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 1,
        "height": size,
        "width": size,
        "annotations": [{**annotation, "segmentation": rle, "iscrowd": 0}],
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        # run lengths, as polygons: the fault of whoever chose the format
        ({"instance_mask_format": "polygon"}, "Failed to use mask_format=='polygon'"),
        ({"instance_mask_format": "bitmask", "augmentations": [Broken()]}, "broken"),
    ],
)
def test_what_is_no_fault_of_the_image_is_not_blamed_on_it(
    tmp_path: Path, options: dict[str, Any], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"augmentations": [], "image_format": "BGR", "use_instance_mask": True, **options}
    mapper = CheckedDatasetMapper(is_train=True, **options)
    with pytest.raises(Exception, match=error) as caught:
        mapper(record_of(tmp_path))
    assert not isinstance(caught.value, DatasetError)
    assert "a.png" in caplog.text


def test_the_mapper_of_a_check_fails_where_training_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few steps: nothing is enlarged, and one size is resized and cropped but once."""
    cfg = load_config("", ("MODEL.MASK_ON", "True", "INPUT.MAX_SIZE_TRAIN", "40"))
    mapper, record = MapperForCheck(cfg, "bitmask"), record_of(tmp_path)
    tried: list[Any] = []
    augment = mapper._augment
    monkeypatch.setattr(mapper, "_augment", lambda one: tried.append(one.image) or augment(one))
    for _ in range(3):
        assert mapper(record).shape == (3, 8, 8)
    assert [image.shape for image in tried] == [(8, 8)]
    with pytest.raises(Exception, match="mask_format=='polygon'"):
        MapperForCheck(cfg, "polygon")(record)
    with pytest.raises(DatasetError, match=r"cannot use image .*a\.png"):
        mapper({**record, "width": 9})
    thin = {**record, "width": 100, "height": 1, "annotations": []}
    Image.new("RGB", (100, 1)).save(tmp_path / "a.png")
    for _ in range(2):  # training makes it no pixel high
        with pytest.raises(ValueError, match="must be > 0"):
            mapper(thin)
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    assert mapper({**thin, "height": 50}).shape == (3, 20, 40)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot use image .*a\.png"):
        MAPPER(record_of(tmp_path, size=9))


def test_run_lengths_of_a_set_that_detectron2_registered(tmp_path: Path) -> None:
    """The mask format is looked up in the records: there is none in the metadata."""
    record_of(tmp_path)
    rle = {"size": [8, 8], "counts": [8, 16, 40]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 0, 2, 8], "area": 16}
            | {"iscrowd": 0, "segmentation": rle}
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_instances("stock_rle", {}, str(tmp_path / "a.json"), str(tmp_path))
    try:
        assert dataset_facts("stock_rle") == DatasetFacts([[0]], "bitmask")
        cfg = load_config("", ["MODEL.MASK_ON", "True", "DATASETS.TRAIN", "('stock_rle',)"])
        spec = fit_config(cfg)
        assert spec.mask_format == "bitmask"
        mapper = CheckedDatasetMapper(spec.resolve(cfg), is_train=True)
        (record,) = DatasetCatalog.get("stock_rle")
        assert mapper(record)["instances"].gt_masks.tensor.any()
    finally:
        DatasetCatalog.remove("stock_rle")
        MetadataCatalog.pop("stock_rle")
