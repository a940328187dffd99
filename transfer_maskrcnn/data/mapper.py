"""Detectron2's DatasetMapper, with an error that names the image where one cannot be read."""

from __future__ import annotations

import logging
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from numpy.typing import NDArray

from transfer_maskrcnn.config import editable
from transfer_maskrcnn.errors import DatasetError

logger = logging.getLogger(__name__)

_MOST_OF_MASKS = 256  # pixels


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


class MapperForCheck:
    """Raises what training would raise for a dataset dict, in a fraction of the time.

    Whether an image can be resized, flipped and cropped depends on its size alone: that is tried
    once for each size, on a blank one. Everything else is done to every dict, but at the image's
    own size, where that is not above the largest of training; with bitmasks, hundreds of which may
    be as large as the image, at a small one.
    """

    def __init__(self, cfg: CfgNode, mask_format: str):
        """
        Args:
            cfg: not fitted to the dataset; stays as it is.
            mask_format: "polygon" or "bitmask", as in the dataset's metadata.
        """
        own, most = editable(cfg), cfg.INPUT.MAX_SIZE_TRAIN
        if mask_format == "bitmask":
            own.INPUT.MASK_FORMAT, most = mask_format, min(most, _MOST_OF_MASKS)
        self._mapper = CheckedDatasetMapper(own, is_train=True)
        self._augment = self._mapper.augmentations
        self._mapper.augmentations = T.AugmentationList([_Shrink(most)])
        self._sizes: set[tuple[int, int]] = set()

    def __call__(self, dataset_dict: dict[str, Any]) -> NDArray[np.uint8]:
        """The image, upright, (channels, height, width)."""
        mapped = self._mapper(dataset_dict)
        size = mapped["height"], mapped["width"]
        if size not in self._sizes:
            self._augment(T.AugInput(np.zeros(size, dtype=np.uint8)))
            self._sizes.add(size)
        return np.asarray(mapped["image"])


class _Shrink(T.Augmentation):
    """What is wider or higher than ``most`` pixels, to that; nothing else."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def get_transform(self, image: NDArray[Any]) -> T.Transform:
        size = image.shape[:2]
        factor = self.most / max(size)
        if factor >= 1:
            return T.NoOpTransform()
        return T.ResizeTransform(*size, *(max(round(side * factor), 1) for side in size))
