"""Detectron2's DatasetMapper, with an error that names the image where one cannot be read."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from transfer_maskrcnn.errors import DatasetError

# Pillow's decoders raise more than OSError on damaged files.
PILLOWS_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class CheckedDatasetMapper(DatasetMapper):
    """Maps a dataset dict to model input as detectron2 does.

    Raises:
        DatasetError: the image went missing, broke or changed size since the dataset was loaded.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        try:
            return super().__call__(dataset_dict)
        except (*PILLOWS_ERRORS, SizeMismatchError, cv2.error) as error:
            raise DatasetError(
                f"cannot use image {dataset_dict.get('file_name')}: "
                f"{' '.join(str(error).split())}. Mend or remove it, then start again with --resume"
            ) from None


def training_mapper(cfg: CfgNode, mask_format: str) -> CheckedDatasetMapper:
    """What training on a dataset of that format would use.

    Args:
        cfg: not fitted to the dataset; stays as it is.
        mask_format: "polygon" or "bitmask", as in the dataset's metadata.
    """
    own = cfg.clone()
    own.defrost()
    if mask_format == "bitmask":
        own.INPUT.MASK_FORMAT = mask_format
    return CheckedDatasetMapper(own, is_train=True)
