"""An image that cannot be read any more ends a run with one clear error, out of a worker too."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.data import build_detection_test_loader

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
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
