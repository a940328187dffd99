"""Which datasets to fit a config to, where their names tell, and what they are like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from transfer_maskrcnn.errors import ConfigError, nearest

_TRAIN = re.compile(r"^(?:(.*)[-_./])?(?:train|training)$", re.IGNORECASE)
_VAL = re.compile(r"^(?:(.*)[-_./])?(?:val|valid|validation)$", re.IGNORECASE)
Floats = NDArray[np.float64]


def choose_datasets(
    own: Sequence[str], known: Sequence[str], train: str | None, val: str | None
) -> tuple[str, str | None]:
    """The names to train on and to validate on; None where there is nothing to validate on.

    Args:
        own: names that a catalog of the user declares.
        known: all registered names.
        train, val: as the user says; None chooses a name of the other's stem ("x_train" and
            "x_val"), or, of a catalog, its only pair of such names, or its only name.

    Raises:
        ConfigError: an unknown name, or nothing that is obvious.
    """
    for name, flag in ((train, "--train"), (val, "--val")):
        if name is not None and name not in known:
            raise ConfigError(
                f"{flag} {name}: no dataset is registered under this name"
                f"{nearest(name, known)}; expected one of {', '.join(sorted(own or known))}"
            )
    if train is None:
        train = _only_train(own, val)
    if val is None:
        partners = _partners(train, known)
        if len(partners) > 1:
            raise ConfigError(
                f"which of {', '.join(partners)} to validate on? Say it with --val NAME"
            )
        val = partners[0] if partners else None
    if train == val:
        raise ConfigError(
            f"--train and --val are both {train!r}: AP on images that were trained on says nothing"
        )
    return train, val


def _only_train(own: Sequence[str], val: str | None) -> str:
    partners = {name: _partners(name, own) for name in own}
    pairs = [name for name, vals in partners.items() if (val in vals if val else vals)]
    if len(pairs) == 1:
        return pairs[0]
    if len(own) == 1 and val is None:
        return own[0]
    if not own:
        raise ConfigError("which dataset? Expected --catalog FILE, or --train NAME [--val NAME]")
    shown = ", ".join(own)
    raise ConfigError(
        f"which of {shown} to train on? Expected one pair of names such as x_train and x_val; "
        "say it with --train NAME --val NAME"
    )


def _partners(train: str, names: Sequence[str]) -> list[str]:
    """Names that say they are the validation set of ``train``."""
    said = _TRAIN.match(train)
    if said is None:
        return []
    found = ((name, _VAL.match(name)) for name in names)
    return [name for name, match in found if match and match.group(1) == said.group(1)]


@dataclass(frozen=True)
class Measures:
    """Of the images of a dataset and its instances, crowds left out.

    Attributes:
        images_hw: (N, 2), heights and widths in pixels.
        boxes_wh: (M, 2), widths and heights in pixels of the images.
        image_of_box: (M,), the row of ``images_hw``.
        class_counts: instances of each class.
    """

    images_hw: Floats
    boxes_wh: Floats
    image_of_box: NDArray[np.int64]
    class_counts: NDArray[np.int64]

    @property
    def images(self) -> int:
        return len(self.images_hw)

    @property
    def objects(self) -> int:
        return len(self.boxes_wh)

    @property
    def objects_an_image(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.bincount(self.image_of_box, minlength=self.images)

    @property
    def empty_images(self) -> int:
        return int((self.objects_an_image == 0).sum())

    def boxes_at(self, scales: Floats) -> Floats:
        """(M, 2), widths and heights where each image is enlarged ``scales`` (N,) times."""
        return self.boxes_wh * scales[self.image_of_box, None]

    def across_at(self, scales: Floats) -> Floats:
        """(M,), square roots of the boxes' areas where each image is enlarged ``scales`` times."""
        return np.asarray(np.sqrt(self.boxes_at(scales).prod(axis=1)))


def measure(records: Iterable[dict[str, Any]], classes: int) -> Measures:
    """Measure detectron2's dataset dicts, of so many classes; no image is opened."""
    shapes: list[tuple[int, int]] = []
    boxes, owners, categories = [], [], []
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            mode = annotation["bbox_mode"]
            boxes.append(BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYWH_ABS)[2:])
            owners.append(len(shapes))
            categories.append(annotation["category_id"])
        shapes.append((record["height"], record["width"]))
    return Measures(
        images_hw=np.array(shapes, dtype=np.float64).reshape(-1, 2),
        boxes_wh=np.array(boxes, dtype=np.float64).reshape(-1, 2),
        image_of_box=np.array(owners, dtype=np.int64),
        class_counts=np.bincount(np.array(categories, dtype=np.int64), minlength=classes),
    )
