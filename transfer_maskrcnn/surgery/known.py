"""Weights that are known by name: where they lie, how good they are, and the config they fit."""

from __future__ import annotations

from typing import NamedTuple

from transfer_maskrcnn.errors import WeightFileError, nearest

SOURCE = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
LICENCE = "CC BY-SA 3.0"  # of all that the page offers
DEFAULT = "mask_rcnn_R_50_FPN_3x"


class Known(NamedTuple):
    """A file of detectron2's model zoo.

    Attributes:
        address: as MODEL.WEIGHTS takes it.
        base: the config below ``configs/`` that has its architecture.
        megabytes: its size, 10^6 bytes; that of X-101 is the sum of its tensors.
        box_ap, mask_ap: on COCO val2017, as ``SOURCE`` has them; None of a backbone alone.
    """

    address: str
    base: str
    megabytes: int
    box_ap: float | None = None
    mask_ap: float | None = None


def _coco(name: str, file: str) -> str:
    return f"detectron2://COCO-InstanceSegmentation/{name}/{file}"


KNOWN = {
    DEFAULT: Known(
        _coco(DEFAULT, "137849600/model_final_f10217.pkl"),
        *("Base-R50-FPN-coco.yaml", 178, 41.0, 37.2),
    ),
    "mask_rcnn_R_101_FPN_3x": Known(
        _coco("mask_rcnn_R_101_FPN_3x", "138205316/model_final_a3ec72.pkl"),
        *("Base-R101-FPN-coco.yaml", 254, 42.9, 38.6),
    ),
    "mask_rcnn_X_101_32x8d_FPN_3x": Known(
        _coco("mask_rcnn_X_101_32x8d_FPN_3x", "139653917/model_final_2d9806.pkl"),
        *("Base-X101-FPN-coco.yaml", 431, 44.3, 39.5),
    ),
    "R-50": Known("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "Base-R50-FPN-coco.yaml", 102),
}


def known(name: str) -> Known:
    """
    Raises:
        WeightFileError: no weights are known by this name.
    """
    if name not in KNOWN:
        raise WeightFileError(
            f"no weights are known as {name!r}{nearest(name, KNOWN)}; expected a file, an address, "
            f"or one of {', '.join(KNOWN)}"
        )
    return KNOWN[name]
