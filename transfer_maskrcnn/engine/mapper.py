"""Detectron2's DatasetMapper, with an error that names the image where one cannot be read."""

from __future__ import annotations

from typing import Any

import cv2
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from transfer_maskrcnn.errors import DatasetError


class CheckedDatasetMapper(DatasetMapper):
    """Maps a dataset dict to model input as detectron2 does.

    Raises:
        DatasetError: the image went missing, broke or changed size since the dataset was loaded.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        try:
            return super().__call__(dataset_dict)
        except (OSError, SizeMismatchError, cv2.error) as error:
            raise DatasetError(
                f"cannot use image {dataset_dict.get('file_name')}: "
                f"{' '.join(str(error).split())}. Mend or remove it, then start again with --resume"
            ) from None
