"""Whether a ground truth and results are whole: one line for the first thing that is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError

_RESULT = ("image_id", "category_id", "bbox", "score")
_ANNOTATION = ("image_id", "category_id", "bbox", "area")


def check_truth(path: Path, truth: Mapping[str, Any]) -> None:
    """Look at everything of a COCO ground truth that an explanation uses.

    Raises:
        DatasetError: something lacks, or is no number, box or mask.
    """
    images = _records(path, "images", truth.get("images"), ("id",))
    categories = _records(path, "categories", truth.get("categories"), ("id",))
    annotations = _records(path, "annotations", truth.get("annotations", []), _ANNOTATION)
    known = {"image_id": {i["id"] for i in images}, "category_id": {c["id"] for c in categories}}
    sizes = {i["id"]: [i.get("height"), i.get("width")] for i in images}
    for place, annotation in enumerate(annotations):
        what = f"{path}: annotation {place}"
        for key, ids in known.items():
            if annotation[key] not in ids:
                raise DatasetError(
                    f"{what}: no {key.removesuffix('_id')} has the id {annotation[key]!r}; "
                    "evaluate again"
                )
        _check_shape(what, annotation, sizes[annotation["image_id"]])
        _check_number(what, "area", annotation["area"])


def check_results(path: Path, results: Sequence[Any], truth: Mapping[str, Any]) -> None:
    """Look at everything of COCO results that an explanation uses.

    Raises:
        DatasetError: something lacks, or is no number, box or mask.
    """
    sizes = {i["id"]: [i.get("height"), i.get("width")] for i in truth["images"]}
    for place, result in enumerate(_records(path, "results", results, _RESULT)):
        what = f"{path}: result {place}"
        _check_shape(what, result, sizes.get(result["image_id"]))
        _check_number(what, "score", result["score"])


def _records(path: Path, name: str, value: Any, keys: Iterable[str]) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise DatasetError(f"{path}: {name} is {_short(value)}, expected a list; evaluate again")
    for place, record in enumerate(value):
        lacking = [k for k in keys if not isinstance(record, dict) or k not in record]
        if lacking:
            raise DatasetError(
                f"{path}: {name}[{place}] is {_short(record)}, which lacks {lacking[0]!r}; "
                "evaluate again"
            )
    return value


def _check_number(what: str, key: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DatasetError(f"{what}: {key} is {_short(value)}, expected a number; evaluate again")


def _check_shape(what: str, record: Mapping[str, Any], size: list[Any] | None) -> None:
    box = record["bbox"]
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise DatasetError(f"{what}: bbox is {_short(box)}, expected 4 numbers; evaluate again")
    for value in box:
        _check_number(what, "bbox", value)
    if "segmentation" in record and not _is_mask(record["segmentation"], size):
        raise DatasetError(
            f"{what}: segmentation is {_short(record['segmentation'])}, expected polygons of 3 or "
            f"more points, or run lengths of the image's size {size}; evaluate again"
        )


def _is_mask(value: Any, size: list[Any] | None) -> bool:
    if isinstance(value, dict):
        runs = isinstance(value.get("counts"), (str, bytes, list))
        return runs and (size is None or value.get("size") == size)
    polygons = isinstance(value, list) and bool(value)
    return polygons and all(isinstance(p, list) and len(p) >= 6 for p in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
