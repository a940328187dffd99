"""Detectron2's DatasetMapper, with an error that names the image where one cannot be read."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils

from transfer_maskrcnn.config import editable
from transfer_maskrcnn.errors import DatasetError

logger = logging.getLogger(__name__)


class CheckedDatasetMapper(DatasetMapper):
    """Maps a dataset dict to model input as detectron2 does.

    Raises:
        DatasetError: the image went missing, broke or changed size since the dataset was loaded.
            Whatever else goes wrong is no fault of the image, and raised as it is.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        try:
            return super().__call__(dataset_dict)
        except Exception:
            self._check_image(dataset_dict)
            logger.error("mapping the annotations of %s failed", dataset_dict.get("file_name"))
            raise

    def _check_image(self, dataset_dict: dict[str, Any]) -> None:
        """Raises DatasetError where the image cannot be read as the annotations say."""
        name = dataset_dict.get("file_name")
        try:
            image = detection_utils.read_image(name, format=self.image_format)
            detection_utils.check_image_size(dict(dataset_dict), image)
        except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
            raise DatasetError(
                f"cannot use image {name}: {' '.join(str(error).split())}. Mend or remove it, then "
                "start again with --resume"
            ) from None


def mapper_for_check(cfg: CfgNode, mask_format: str) -> CheckedDatasetMapper:
    """What training on a dataset of that format would use.

    Args:
        cfg: not fitted to the dataset; stays as it is.
        mask_format: "polygon" or "bitmask", as in the dataset's metadata.
    """
    own = editable(cfg)
    if mask_format == "bitmask":
        own.INPUT.MASK_FORMAT = mask_format
    return CheckedDatasetMapper(own, is_train=True)
