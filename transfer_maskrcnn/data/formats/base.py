"""What every format loader returns, what its parser hands on, and how losses are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MaskFormat = Literal["polygon", "bitmask"]

# Why an image was left out. Plural, to follow a number: "2 missing on disk".
IMAGE_MISSING = "missing on disk"
IMAGE_UNREADABLE = "unreadable"
IMAGE_OTHER_SIZE = "whose size differs from the annotation"
IMAGE_ROTATED = "turned by their EXIF orientation after they were annotated"
IMAGE_TURNED_TIFF = "TIFF with an EXIF orientation, which detectron2 applies twice: save upright"
IMAGE_DEEP = "of 16-bit or float pixels, which detectron2 would clip to white: save as 8 bit"
IMAGE_WITHOUT_JSON = "without a json file"
LABELS_WITHOUT_IMAGE = "label files without an image"
IMAGE_WITHOUT_MASK_FILE = "without a mask file"
IMAGE_BAD_MASK_FILE = "with an unreadable mask file"

# Why an instance was left out.
IN_LEFT_OUT_IMAGE = "in images left out"
UNKNOWN_IMAGE = "of an image that the file does not list"
NO_MASK = "without a mask (box only)"
NO_LABEL = "without a class label"
TOO_FEW_POINTS = "with fewer than 3 distinct points"
BAD_COORDINATES = "with missing, non-numeric or infinite coordinates"
OUTSIDE_IMAGE = "wholly outside the image"
ZERO_AREA = "of zero area"
BAD_MASK = "with a malformed bitmask"
MASK_OTHER_SIZE = "whose bitmask has another size than the image"

# What was mended.
REPEATED_POINTS = "with consecutive repeated points"
CLIPPED = "clipped to the image"
PART_DROPPED = "that lost an unusable part"
BOX_RECOMPUTED = "with a box recomputed from the mask"
BOX_CLIPPED = "with a box clipped to the image"
NESTED = "with polygons nested in another way than COCO's"
AREA_MISMATCH = "with an area field that does not match the mask"
DUPLICATE_ID = "duplicate annotation ids"
DUPLICATE_CATEGORY = "unused categories of a name that another category has"

_MOST_PLACES = 1_000


@dataclass
class LoadReport:
    """Counts of one load; each Counter maps a reason in words to a number of items.

    ``images_read == images_kept + sum(images_left_out.values())`` and
    ``instances_read == instances_kept + sum(left_out.values())`` hold after every load.
    ``repaired`` items are kept. An instance is counted once a reason. ``places`` holds the first
    thousand places of each reason, in the order in which they were met.
    """

    images_read: int = 0
    images_kept: int = 0
    instances_read: int = 0
    instances_kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # instances
    images_left_out: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, where: str, count: int = 1) -> None:
        self._count(self.left_out, reason, where, count)

    def leave_out_image(self, reason: str, where: str) -> None:
        self._count(self.images_left_out, reason, where, 1)

    def repair(self, reason: str, where: str, count: int = 1) -> None:
        self._count(self.repaired, reason, where, count)

    def _count(self, counts: Counter[str], reason: str, where: str, count: int) -> None:
        if count:
            counts[reason] += count
            places = self.places.setdefault(reason, [])
            if len(places) < _MOST_PLACES:
                places.append(where)

    def summary(self) -> str:
        """One line: images and instances read, kept, left out and repaired, by reason."""
        text = (
            f"{self.images_kept} of {self.images_read} images, "
            f"{self.instances_kept} of {self.instances_read} instances kept"
        )
        for title, counts in (
            ("images left out", self.images_left_out),
            ("instances left out", self.left_out),
            ("repaired", self.repaired),
        ):
            if counts:
                text += f"; {title}: {self.reasons(counts)}"
        return text

    def reasons(self, counts: Counter[str]) -> str:
        return ", ".join(
            f"{count} {reason} (first: {self.places[reason][0]})"
            for reason, count in sorted(counts.items())
        )


@dataclass(frozen=True)
class LoadedDataset:
    """Detectron2 dataset dicts and what belongs with them.

    ``dicts[i]["annotations"][j]["category_id"]`` is an index into ``classes``; ``category_ids[k]``
    is the id that class ``k`` has in the annotation file. Segmentations are all polygons
    (``polygon``: lists of flat x, y in pixels) or all compressed RLE dicts (``bitmask``; ``counts``
    is ASCII text, so that the dicts can go into json). Crowd regions (``iscrowd`` 1) are the
    exception: among polygons they may stay RLE, since detectron2's mapper drops them before it
    looks at masks.

    ``files`` are all images that the annotations list, those left out included: by image id for
    COCO, else in the file's order. ``positions[i]`` is the place in it, from 0, of ``dicts[i]``,
    and ``instances[i]`` the number of its annotations. ``places[i][j]`` says where annotation ``j``
    of ``dicts[i]`` stands in its file; a dataset that comes from the cache has none.
    """

    dicts: Sequence[dict[str, Any]]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mask_format: MaskFormat
    report: LoadReport
    positions: tuple[int, ...]
    instances: tuple[int, ...]
    files: tuple[str, ...]
    places: Sequence[Sequence[str]] = field(default=(), compare=False)


@dataclass(frozen=True)
class Patch:
    """A bitmask that covers a part of its image: ``mask`` (h, w) bool, its corner at pixel x, y."""

    mask: np.ndarray
    x: int
    y: int


@dataclass
class RawInstance:
    """One instance as a parser found it; nothing of its geometry has been checked yet.

    Its mask is the union of ``polygons`` (each flat x, y, in pixels, or in fractions of the image's
    width and height where ``relative``) and ``patches``, or else the COCO ``rle``. A parser that
    already knows why the instance cannot be used says so in ``problem``.
    """

    where: str
    label: str = ""
    polygons: list[Any] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    rle: dict[str, Any] | None = None
    relative: bool = False
    bbox_xywh: Any = None  # as the file states it; absent in formats that have no boxes
    states_bbox: bool = False  # whether the format has boxes at all
    area: Any = None  # as the file states it, in pixels
    iscrowd: int = 0
    problem: str = ""


@dataclass
class RawImage:
    """One image as a parser found it. ``file_name`` is where it should lie on disk."""

    file_name: str
    image_id: int
    instances: list[RawInstance] = field(default_factory=list)
    stated_size: tuple[int, int] | None = None  # height, width as the annotation has them
    problem: str = ""  # why the image cannot be used, where the parser knows already
