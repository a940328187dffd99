"""A random split of one dataset into images to train on and images to validate on.

By image, each class in proportion, and what is nearly the same picture on one side: frames of one
video in both would make AP say how well the model remembers. What an image draws depends on the
seed and its name alone, so the order of files and the machine make no difference, and one image
more moves few others.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, NamedTuple

from transfer_maskrcnn.data.formats.files import natural_key
from transfer_maskrcnn.errors import DatasetError, nearest

PARTS = ("train", "val")
_NO_OBJECT, _ANY = -1, -2  # what images have in common beside classes
_EXPECTED = (
    "expected {val: 0.2, seed: 0}: the share of the images to validate on, above 0 and below 1, "
    "and a whole number that draws them (0 if it is not there)"
)


class Split(NamedTuple):
    """``val`` is the share of the images to validate on, ``seed`` draws them."""

    val: float
    seed: int = 0

    @classmethod
    def of(cls, stated: Any) -> Split:
        """As a catalog states it. Raises DatasetError for anything but ``{val, seed}``."""
        if not isinstance(stated, Mapping):
            more = ". A text names a split of yolo's data.yaml; other formats have none"
            raise DatasetError(f"split is {stated!r}; {_EXPECTED}{more}")
        unknown = [key for key in stated if key not in cls._fields]
        if unknown:
            close = nearest(str(unknown[0]), cls._fields)
            raise DatasetError(f"split has the key {unknown[0]!r}; {_EXPECTED}{close}")
        val, seed = stated.get("val"), stated.get("seed", 0)
        if type(val) is not float or not 0 < val < 1 or type(seed) is not int or seed < 0:
            raise DatasetError(f"split is {dict(stated)!r}; {_EXPECTED}")
        return cls(val, seed)


def names_of(files: Sequence[str], root: str) -> list[str]:
    """What images are called on any machine: their paths below ``root``, or, where one lies
    elsewhere, below the folder that holds them all; letters in one Unicode form, / between."""
    paths = [os.path.abspath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    start = os.path.abspath(root)
    if os.path.commonpath([start, common]) != start:
        start = common
    names = (os.path.relpath(path, start).replace(os.sep, "/") for path in paths)
    return [unicodedata.normalize("NFC", name) for name in names]


class _Unit(NamedTuple):
    """Images that stay together. ``shows`` counts its images by what they show."""

    draw: str
    images: tuple[int, ...]
    shows: Mapping[int, int]


def val_images(
    names: Sequence[str],
    labels: Sequence[Collection[int]],
    groups: Sequence[int],
    split: Split,
) -> set[int]:
    """The numbers of the images to validate on.

    A class that is in two images or more has some on both sides, wherever that is possible. Where
    all images stay together, as frames of one video, the last of them by name are held out.

    Args:
        names: of the images, the same on every machine.
        labels: the classes in each.
        groups: a number for each, the same for those that stay together.

    Raises:
        DatasetError: there is nothing to divide.
    """
    units = _units(names, labels, groups, split.seed)
    if len(names) < 2:
        raise DatasetError("split: there is one image; expected two or more to divide")
    if len(units) < 2:
        by_name = sorted(range(len(names)), key=lambda image: natural_key(names[image]))
        trained_on = round(len(names) * (1 - split.val))
        return {*by_name[min(max(trained_on, 1), len(names) - 1) :]}
    showing: dict[int, list[_Unit]] = {}
    for unit in units:
        for kind in unit.shows:
            showing.setdefault(kind, []).append(unit)
    rarest_first = sorted(showing, key=lambda kind: (len(showing[kind]), kind))
    alone = {kind for kind in rarest_first if len(showing[kind]) == 1}
    is_val: dict[str, bool] = {}
    for kind in rarest_first[len(alone) :]:
        most_images = split.val * sum(unit.shows[kind] for unit in showing[kind])
        most = split.val * len(showing[kind])  # else all but one long video would be held out
        held_out = [unit.shows[kind] for unit in showing[kind] if is_val.get(unit.draw)]
        have, have_images = len(held_out), sum(held_out)
        # a class that is in no other image is better trained on
        undecided = [unit for unit in showing[kind] if unit.draw not in is_val]
        for unit in sorted(undecided, key=lambda u: not alone.isdisjoint(u.shows)):
            images = unit.shows[kind]
            fits = have + 0.5 < most and have_images + images / 2 < most_images
            have, have_images = have + fits, have_images + images * fits
            is_val[unit.draw] = fits
    for kind in rarest_first[len(alone) :]:
        _spread(kind, showing, alone, is_val, split.val)
    return {image for unit in units if is_val[unit.draw] for image in unit.images}


def _units(
    names: Sequence[str],
    labels: Sequence[Collection[int]],
    groups: Sequence[int],
    seed: int,
) -> list[_Unit]:
    """In the order in which they are drawn."""
    together: dict[int, list[int]] = {}
    for image, group in enumerate(groups):
        together.setdefault(group, []).append(image)
    units = []
    for images in together.values():
        draws = (hashlib.sha256(f"{seed}/{names[i]}".encode()).hexdigest() for i in images)
        shown = Counter(kind for i in images for kind in set(labels[i]) or {_NO_OBJECT})
        units.append(_Unit(min(draws), tuple(images), {**shown, _ANY: len(images)}))
    return sorted(units)


def _spread(
    kind: int,
    showing: Mapping[int, list[_Unit]],
    alone: Set[int],
    is_val: dict[str, bool],
    share: float,
) -> None:
    """Where all that show ``kind`` are on one side, move what fits best to the other side, if that
    takes no other class from this one."""
    units = showing[kind]
    side = is_val[units[0].draw]
    if any(is_val[unit.draw] != side for unit in units):
        return
    wanted = (1 - share if side else share) * sum(unit.shows[kind] for unit in units)
    staying = {
        other: sum(is_val[u.draw] == side for u in showing[other])
        for other in {other for unit in units for other in unit.shows}
    }
    movable = [u for u in units if all(staying[k] > 1 or k in alone for k in u.shows)]
    if movable:
        best = min(
            movable,
            key=lambda u: (not side and not alone.isdisjoint(u.shows), abs(u.shows[kind] - wanted)),
        )
        is_val[best.draw] = not side
