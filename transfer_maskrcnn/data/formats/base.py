"""What every format loader returns, what its parser hands on, and how losses are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import printable

MaskFormat = Literal["polygon", "bitmask"]


class Reason(str, Enum):
    """Why an image or an instance was left out, or what of it was mended."""

    # images left out
    IMAGE_MISSING = "image_missing"
    IMAGE_EMPTY = "image_empty"
    IMAGE_NO_IMAGE = "image_no_image"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_BANDS = "image_bands"
    IMAGE_FORMAT = "image_format"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_OTHER_SIZE = "image_size"
    IMAGE_ROTATED = "image_rotated"
    IMAGE_TURNED_TIFF = "image_turned_tiff"
    IMAGE_DEEP = "image_deep"
    IMAGE_WITHOUT_JSON = "image_without_json"
    IMAGE_IN_JSON = "image_in_json"
    IMAGE_WITHOUT_LABELS = "image_without_labels"
    LABELS_WITHOUT_IMAGE = "labels_without_image"
    IMAGE_WITHOUT_MASK_FILE = "image_without_mask_file"
    IMAGE_BAD_MASK_FILE = "bad_mask_file"
    MASK_IS_PICTURE = "mask_is_picture"
    MASK_SEAMS = "mask_seams"
    # instances left out
    IN_LEFT_OUT_IMAGE = "lost_with_image"
    UNKNOWN_IMAGE = "unknown_image"
    NO_MASK = "no_mask"
    NO_LABEL = "no_label"
    TOO_FEW_POINTS = "too_few_points"
    BAD_COORDINATES = "bad_coordinates"
    OUTSIDE_IMAGE = "outside_image"
    ZERO_AREA = "zero_area"
    BAD_MASK = "bad_rle"
    MASK_OTHER_SIZE = "rle_size"
    OTHER_SHAPE = "other_shape"
    NOTE_SHAPE = "note_shape"
    IGNORED_LABEL = "ignored_label"
    KEY_POINTS = "key_points"
    ODD_COUNT = "odd_count"
    OTHER_UNIT = "other_unit"
    VOID = "void"
    STUFF = "stuff"
    # mended
    CONFIDENCE = "confidence"
    INSTANCE_ID = "instance_id"
    PIXELS = "pixels"
    FRACTIONS = "fractions"
    THIRD_COORDINATE = "third_coordinate"
    FOUND_ELSEWHERE = "found_elsewhere"
    NAME_SPELT = "name_spelt"
    REPEATED_POINTS = "repeated_points"
    CLIPPED = "clipped"
    PART_DROPPED = "part_dropped"
    BOX_RECOMPUTED = "box_recomputed"
    BOX_CLIPPED = "box_clipped"
    NESTED = "nested"
    AREA_MISMATCH = "area_wrong"
    MASK_NAMED = "mask_named"
    MASK_CUT = "mask_cut"
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_CATEGORY = "duplicate_category"
    SUPERCATEGORY = "supercategory"
    OTHER_TYPE = "other_type"
    BOX_OFF = "box_off"
    HOLES = "holes"
    SAME_FILE = "same_file"
    SIZE_EXCHANGED = "size_exchanged"
    # kept as they are, but doubted
    SHARED_LABELS = "shared_labels"
    TURNED_BOX = "turned_box"
    OTHER_JSON = "other_json"
    BROKEN_JSON = "broken_json"
    OTHER_IMAGE = "other_image"
    SEMANTIC_MASK = "semantic_mask"
    SCATTERED = "scattered"
    FRAGMENT = "fragment"
    MASK_NOT_READ = "mask_not_read"
    PART_IN_PART = "part_in_part"
    CROWDS = "crowds"
    MASK_OFF = "mask_off"


# Plural, to follow a number: "2 missing on disk".
WORDS = {
    Reason.IMAGE_MISSING: "missing on disk",
    Reason.IMAGE_EMPTY: "of zero bytes",
    Reason.IMAGE_NO_IMAGE: "in no image format",
    Reason.IMAGE_TRUNCATED: "damaged or cut short",
    Reason.IMAGE_TOO_LARGE: "of more pixels than Pillow opens",
    Reason.IMAGE_BANDS: "TIFF of bands or bits that Pillow does not open",
    Reason.IMAGE_FORMAT: "in a format that detectron2 does not read",
    Reason.IMAGE_UNREADABLE: "that the system does not let us read",
    Reason.IMAGE_OTHER_SIZE: "whose size differs from the annotation",
    Reason.IMAGE_ROTATED: "turned by their EXIF orientation after they were annotated",
    Reason.IMAGE_TURNED_TIFF: (
        "TIFF with an EXIF orientation, which detectron2 applies twice: save upright"
    ),
    Reason.IMAGE_DEEP: (
        "of 16-bit or float pixels, which detectron2 would clip to white: save as 8 bit"
    ),
    Reason.IMAGE_WITHOUT_JSON: "without a json file",
    Reason.IMAGE_IN_JSON: "that only their json files hold (imageData): save them as image files",
    Reason.IMAGE_WITHOUT_LABELS: (
        "without a label file, unlike others (unlabelled: background would keep them)"
    ),
    Reason.LABELS_WITHOUT_IMAGE: "label files without an image",
    Reason.IMAGE_WITHOUT_MASK_FILE: "without a mask file",
    Reason.IMAGE_BAD_MASK_FILE: "with an unreadable mask file",
    Reason.MASK_IS_PICTURE: "whose mask file is a picture (annotations and image_root exchanged?)",
    Reason.MASK_SEAMS: "whose mask file was smoothed or compressed, so that its values are blurred",
    Reason.IN_LEFT_OUT_IMAGE: "in images left out",
    Reason.UNKNOWN_IMAGE: "of an image that the file does not list",
    Reason.NO_MASK: "without a mask (box only)",
    Reason.NO_LABEL: "without a class label",
    Reason.TOO_FEW_POINTS: "with fewer than 3 distinct points",
    Reason.BAD_COORDINATES: "with missing, non-numeric or infinite coordinates",
    Reason.OUTSIDE_IMAGE: "wholly outside the image",
    Reason.ZERO_AREA: "of zero area",
    Reason.BAD_MASK: "with a malformed bitmask",
    Reason.MASK_OTHER_SIZE: "whose bitmask has another size than the image",
    Reason.OTHER_SHAPE: "of a shape that encloses no area",
    Reason.NOTE_SHAPE: "of a shape without an area, with a label that no area has",
    Reason.IGNORED_LABEL: "labelled __ignore__ or _background_",
    Reason.KEY_POINTS: "of a box and key points (pose labels)",
    Reason.ODD_COUNT: "with an odd number of coordinates",
    Reason.OTHER_UNIT: "with coordinates that are no fractions of the image",
    Reason.CONFIDENCE: "with a confidence beside the outline",
    Reason.INSTANCE_ID: "with an instance's number beside the outline",
    Reason.PIXELS: "in pixels instead of fractions",
    Reason.FRACTIONS: "in fractions of the image instead of pixels",
    Reason.THIRD_COORDINATE: "with a third coordinate, which is dropped",
    Reason.VOID: "of the value 255, void beside low numbers",
    Reason.STUFF: "of a value below 1000 in instanceIds, which numbers no instance",
    Reason.FOUND_ELSEWHERE: "images found under another name than the annotations state",
    Reason.NAME_SPELT: "images whose name is written in another notation",
    Reason.REPEATED_POINTS: "with consecutive repeated points",
    Reason.CLIPPED: "clipped to the image",
    Reason.PART_DROPPED: "that lost an unusable part",
    Reason.BOX_RECOMPUTED: "with a box recomputed from the mask",
    Reason.BOX_CLIPPED: "with a box clipped to the image",
    Reason.NESTED: "with a mask nested in another way than COCO's",
    Reason.AREA_MISMATCH: "with an area field that does not match the mask",
    Reason.MASK_NAMED: "whose masks have more in their name than the image's",
    Reason.MASK_CUT: "smoothed or compressed masks cut at half",
    Reason.SEMANTIC_MASK: (
        "in several pieces, of values that look like classes "
        "(pixel_values: class makes each piece an instance)"
    ),
    Reason.SCATTERED: "in pieces that lie far apart",
    Reason.FRAGMENT: "so small that they may be fragments of others",
    Reason.MASK_NOT_READ: "with another mask file, which is not read",
    Reason.DUPLICATE_ID: "duplicate annotation ids",
    Reason.DUPLICATE_CATEGORY: "unused categories of a name that another category has",
    Reason.TURNED_BOX: "whose outline is a box, as all are",
    Reason.SHARED_LABELS: "that share a label file with another image",
    Reason.OTHER_JSON: "json files of another kind, not read",
    Reason.BROKEN_JSON: "json files that cannot be read",
    Reason.OTHER_IMAGE: "images that have another name than the json file, which has its own",
    Reason.SUPERCATEGORY: "unused categories that are the supercategory of all others",
    Reason.OTHER_TYPE: "with a value of another type than COCO's (a number as text, null)",
    Reason.BOX_OFF: "whose box was not around the mask, which has its own now",
    Reason.HOLES: "with a part inside another, cut out as a hole",
    Reason.SAME_FILE: "images listed more than once, made one",
    Reason.SIZE_EXCHANGED: "images whose width and height the annotations exchange",
    Reason.PART_IN_PART: "with a part inside another that their area says is no hole",
    Reason.CROWDS: "crowd regions (iscrowd 1), not trained on, that may be objects",
    Reason.MASK_OFF: "whose box and area fit each other, but not the mask",
}
# Mended without any doubt of what was meant: told, but no reason for a warning.
_QUIET = frozenset(
    (
        *(Reason.REPEATED_POINTS, Reason.CLIPPED, Reason.PART_DROPPED, Reason.NESTED),
        *(Reason.BOX_RECOMPUTED, Reason.BOX_CLIPPED, Reason.AREA_MISMATCH),
        *(Reason.DUPLICATE_ID, Reason.DUPLICATE_CATEGORY, Reason.MASK_NAMED, Reason.NAME_SPELT),
        *(Reason.OTHER_TYPE, Reason.SUPERCATEGORY),
    )
)
_MOST_PLACES = 1_000
#: of a LoadReport, those by reason
COUNTERS = ("left_out", "images_left_out", "repaired", "doubted")


class Place(NamedTuple):
    """Where something was met.

    Attributes:
        image: the image file, or the label file without an image; "" where there is none.
        part: what of the annotations: "annotations", "regions", "shapes" (lists of the json),
            "line", "value" (of pixels), or the name of a mask file; "" for the whole image.
        number: which one of ``part``: from 0 in a list, from 1 of lines.
        note: what was seen there.
        origin: what of several belongs to the image: the json file (labelme), its key in one (VIA).
    """

    image: str = ""
    part: str = ""
    number: int | None = None
    note: str = ""
    origin: str = ""

    @property
    def where(self) -> str:
        """The place within its image: "annotations[3]", "line 4", "m2.png"."""
        if self.number is None:
            return self.part
        return (
            f"{self.part} {self.number}"
            if self.part in ("line", "value")
            else f"{self.part}[{self.number}]"
        )

    def __str__(self) -> str:
        text: str = printable(": ".join(filter(None, (self.image, self.where, self.note))))
        return text  # of a file's name, nothing may steer the terminal


@dataclass
class LoadReport:
    """Counts of one load, by reason.

    ``images_read == images_kept + sum(images_left_out.values())`` and
    ``instances_read == instances_kept + sum(left_out.values())`` hold after every load.
    ``repaired`` items are kept, and so are ``doubted`` ones, as they are: what was read may not be
    what was meant. An instance is counted once a reason. ``places`` holds the first thousand places
    of each reason, in the order in which they were met; ``in_images`` how many of each reason are
    in each image, by its file.
    """

    images_read: int = 0
    images_kept: int = 0
    instances_read: int = 0
    instances_kept: int = 0
    crowds: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)  # instances
    images_left_out: Counter[Reason] = field(default_factory=Counter)
    repaired: Counter[Reason] = field(default_factory=Counter)
    doubted: Counter[Reason] = field(default_factory=Counter)
    places: dict[Reason, list[Place]] = field(default_factory=dict)
    in_images: dict[Reason, Counter[str]] = field(default_factory=dict)

    def count(self, counts: Counter[Reason], reason: Reason, place: Place, number: int = 1) -> None:
        """Count ``number`` items in one of the four counters by reason."""
        if number:
            counts[reason] += number
            self.in_images.setdefault(reason, Counter())[place.image] += number
            places = self.places.setdefault(reason, [])
            if len(places) < _MOST_PLACES:
                places.append(place)

    def losses(self) -> Iterator[tuple[Reason, Place, int]]:
        """Each place of each reason, and how many are meant: the first of a reason stands for those
        whose places were not kept, too."""
        counts = self.images_left_out + self.left_out + self.repaired + self.doubted
        for reason, count in counts.items():
            for k, place in enumerate(self.places[reason]):
                yield reason, place, 1 if k else 1 + count - len(self.places[reason])

    def part(
        self, has: Callable[[str], bool], images_kept: int = 0, instances_kept: int = 0
    ) -> LoadReport:
        """The report of a part of the dataset: of the images of which ``has`` is true.

        ``has`` is also asked of what a place names where that is no image: "", a label file.
        """
        own = (
            (r, {i: n for i, n in counts.items() if has(i)}) for r, counts in self.in_images.items()
        )
        mine = {reason: Counter(counts) for reason, counts in own if counts}
        places = {reason: [p for p in self.places[reason] if has(p.image)] for reason in mine}
        part = LoadReport(
            images_kept=images_kept,
            instances_kept=instances_kept,
            places={
                reason: there or [Place(next(iter(mine[reason])))]
                for reason, there in places.items()
            },
            in_images=mine,
        )
        for name in COUNTERS:
            counted = mine.keys() & getattr(self, name).keys()
            setattr(part, name, Counter({reason: mine[reason].total() for reason in counted}))
        part.images_read = images_kept + part.images_left_out.total()
        part.instances_read = instances_kept + part.left_out.total()
        return part

    @property
    def needs_a_look(self) -> bool:
        """Whether anything was left out, doubted, or mended in a way that may not be right."""
        is_mended = self.repaired.keys() - _QUIET
        return bool(self.images_left_out or self.left_out or self.doubted or is_mended)

    def summary(self) -> str:
        """One line: images and instances read, kept, left out, doubted and repaired, by reason."""
        kept = (
            f"{self.images_kept} of {self.images_read} images, "
            f"{self.instances_kept} of {self.instances_read} instances kept"
        )
        if self.crowds:
            kept += f", {self.crowds} of them crowd regions, which are not trained on"
        groups = {
            "images left out": self.images_left_out,
            "instances left out": self.left_out,
            "to be looked at": self.doubted,
            "repaired": self.repaired,
        }
        told = (f"{title}: {self.reasons(counts)}" for title, counts in groups.items() if counts)
        return "; ".join([kept, *told])

    def reasons(self, counts: Counter[Reason]) -> str:
        return ", ".join(
            f"{count} {WORDS[reason]} (first: {self.places[reason][0]})"
            for reason, count in sorted(counts.items(), key=lambda item: WORDS[item[0]])
        )


class UnusableDataset(DatasetError):
    """Nothing of a dataset can be used. ``report`` has each reason, its count and its places.

    ``files`` are all images that the annotations list, in their order, where they could be read.
    """

    def __init__(self, message: str, report: LoadReport | None = None, files: Sequence[str] = ()):
        super().__init__(message)
        self.report = report or LoadReport()
        self.files = files


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
    ``instances[i]`` the number of its annotations, and ``labels[i]`` the ``category_id`` of each of
    them that is no crowd. ``places[i][j]`` says where annotation ``j`` of ``dicts[i]`` stands in
    its file; a dataset that comes from the cache has none.
    """

    dicts: Sequence[dict[str, Any]]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mask_format: MaskFormat
    report: LoadReport
    positions: tuple[int, ...]
    instances: tuple[int, ...]
    files: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...] = ()
    places: Sequence[Sequence[Place]] = field(default=(), compare=False)


@dataclass(frozen=True)
class Patch:
    """A bitmask that covers a part of its image: ``mask`` (h, w) bool, its corner at pixel x, y."""

    mask: np.ndarray
    x: int
    y: int


@dataclass(slots=True)
class RawInstance:
    """One instance as a parser found it; nothing of its geometry has been checked yet.

    Its mask is the union of ``polygons`` (each flat x, y, in pixels, or in fractions of the image's
    width and height where ``relative``) and ``patches``, or else the COCO ``rle``. A polygon within
    another one is a hole of it. A parser that already knows why the instance cannot be used says so
    in ``problem``, what it mended in ``repairs``, and what it doubts in ``doubts``; ``assemble``
    adds what it finds, and counts it.
    """

    place: Place
    label: str = ""
    polygons: list[Any] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    rle: dict[str, Any] | None = None
    relative: bool = False
    bbox_xywh: Any = None  # as the file states it; None in formats that have no boxes
    area: Any = None  # as the file states it, in pixels
    iscrowd: int = 0
    problem: Reason | None = None
    repairs: list[Reason] = field(default_factory=list)
    doubts: list[Reason] = field(default_factory=list)


@dataclass
class RawImage:
    """One image as a parser found it.

    ``file_name`` is where it should lie on disk; until ``ImageFolder.locate``, what the annotations
    call it. ``record`` is what lists it, in words, for whoever has two of them for one file; ""
    stands for its id. ``note`` says more of ``problem``; ``repairs`` are what the parser mended, or
    doubts, each with what it saw.
    """

    file_name: str
    image_id: int
    instances: list[RawInstance] = field(default_factory=list)
    stated_size: tuple[int, int] | None = None  # height, width as the annotation has them
    record: str = ""
    problem: Reason | None = None  # why the image cannot be used, where the parser knows already
    note: str = ""
    repairs: list[tuple[Reason, str]] = field(default_factory=list)
    doubts: list[tuple[Reason, str]] = field(default_factory=list)


def is_panoptic(data: dict[str, Any]) -> bool:
    """Of a json with images and annotations: whether these are segments of a PNG."""
    first = data["annotations"][:1] if isinstance(data["annotations"], list) else ()
    return any(isinstance(one, dict) and "segments_info" in one for one in first)
