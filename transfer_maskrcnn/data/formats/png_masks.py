"""Masks as PNG files: one indexed PNG an image, or one binary PNG an instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few, plural

from .assemble import Merge, assemble
from .base import LoadedDataset, Place, RawImage, RawInstance, Reason
from .files import existing, in_threads
from .mask_files import Masked, find_masks
from .masks import labels_to_rles, mask_to_rle, rle_area

PixelValues = Literal["instance", "class"]
_NUMBERS = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
_COLOUR = 1 << 24  # added to a colour, which then is no number
_VOID, _VOID_COLOUR = 255, 0xE0E0C0  # what nobody annotated, in Pascal VOC's masks
_MOST_BESIDE_VOID = 64  # 1, 2, 255 are two objects and void; 85, 170, 255 are three objects
_STUFF = 1000  # Cityscapes' instanceIds: class x 1000 + number, and below that whole classes
# The values of pictures change from pixel to pixel; those of masks do not, but for the steps at
# edges that smoothing and compression leave.
_PICTURE, _PICTURE_VALUES = 0.2, 32  # of the pixels
_STEPS, _SEAM_VALUES = 0.25, 3  # of the pixels at edges
_SEAM, _MOSTLY = 13, 0.75  # pixels around one between two values, which has both within
_NOISE = 16  # grey levels by which compression changes 0 and 255
_SPECK = 0.1  # of the largest piece's area
# Of the instances: fewer may well be objects that something hides in part (COCO's: 0.07).
_DIVIDED_ALONE, _DIVIDED = 0.1, 0.2
_FRAGMENT, _FRAGMENT_SHARE = 16, 0.02  # pixels; of the area of the largest region


def load_png_masks(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    pixel_values: PixelValues | None = None,
    mask_suffix: str | None = None,
) -> LoadedDataset:
    """Load masks that are PNG files.

    One indexed PNG an image: ``annotations`` is the folder of the masks, with sub-folders as
    ``image_root`` has them. Each is named as its image, or as all others with the same part more
    (``im00_mask.png``, ``mask_im00.png``), which names of images may have, too
    (``a_leftImg8bit.png``, ``a_gtFine_instanceIds.png``). Masks may lie beside the images.

    One binary PNG an instance, non-zero where the instance is: several masks of an image whose
    names differ by a number (``im00_object_3.png``), or lie in a folder named as the image; or
    ``annotations`` and ``image_root`` are one folder of samples, each a folder with one image in
    ``images/`` and its masks in ``masks/``.

    Palette images are read as indices, others as values of 8 or 16 bits, or as colours; 0 and black
    are background. 255, or in Pascal VOC's colours its cream, is void (what nobody annotated) in
    palette images, and in grey ones beside low numbers (up to 64): background, and counted unless
    it is a border around objects. Where it is the only value, it is the object. Masks of 0 and 255
    that are smoothed or were compressed are cut at half, and counted.

    Args:
        annotations: the folder of masks or samples, or one with ``images/`` and ``masks/`` (or
            ``JPEGImages/`` and ``SegmentationObject/``, ``PNGImages/`` and ``PedMasks/``, ...).
        image_root: the folder of the images. Default: where ``annotations`` are.
        classes: class names. Default: ["object"].
        merge: class -> its labels, which stand in its place where classes are counted.
        pixel_values: what the values of an indexed PNG mean. ``instance`` (the default): a number
            for each instance, all of one class. ``class``: k is the k-th class (from 1), a single
            value the only class, and each connected region of it (8 neighbours) one instance:
            instances that touch become one, and one that something divides becomes several. In
            Pascal VOC's ``SegmentationObject/`` each value stays one instance, whose class is that
            of most of its pixels in ``SegmentationClass/`` beside it. Without it, masks that look
            as if they were of the other kind are counted.
        mask_suffix: what a mask's name has after its image's ("_mask"); ``*`` stands for anything.

    Raises:
        DatasetError: for a folder that is missing or has no such layout, pixel values above the
            number of classes, several classes where only one can be told, and where no image can
            be used.
    """
    own, merged = classes or ("object",), merge or {}
    names = tuple(label for name in own for label in merged.get(name, (name,)))
    folder = existing(annotations, "annotations", "folder")
    root = None if image_root is None else existing(image_root, "image_root", "folder")
    if pixel_values not in ("instance", "class", None):
        raise DatasetError(f"pixel_values is {pixel_values!r}; expected 'instance' or 'class'")
    masked, several = find_masks(folder, root, mask_suffix)
    if len(names) > 1 and pixel_values != "class":
        layout = "one binary PNG an instance" if several else "pixel_values 'instance'"
        raise DatasetError(
            f"classes is {list(names)!r}, but {layout} cannot tell one class from another: name "
            "one class, or use indexed PNGs of class numbers with pixel_values: class"
        )
    read = partial(_read_image, by_class=pixel_values == "class", several=several)
    frames = Counter(in_threads(read, masked))
    if pixel_values is None and len(frames) == 1 and max(frames) > 0:
        raise DatasetError(
            f"{folder}: value {max(frames) % _COLOUR} covers the border of every image, and 0 lies "
            "within: is 0 the object? 0 has to be background: exchange the two values in all masks "
            "(or state pixel_values: instance if they are right)"
        )
    images = [image for image, _ in masked]
    is_semantic = _screen(images) and pixel_values is None and not several
    for instance in (i for image in images for i in image.instances):
        other = Reason.SCATTERED if is_semantic else Reason.SEMANTIC_MASK
        instance.doubts = [doubt for doubt in instance.doubts if doubt is not other]
    _name(images, names, pixel_values == "class", str(folder))
    known = {name: k for k, name in enumerate(names, start=1)}
    return assemble(images, str(folder), classes, merge, known=known)


def _screen(images: Sequence[RawImage]) -> bool:
    """Leave out what is void, which no mask can tell alone; whether the values look like classes.

    That is where many are in several pieces, and either each mask has but one, or most do not count
    from 1.
    """
    instances = [i for image in images for i in image.instances if not i.problem]
    beside = max((int(i.label) for i in instances if i.label != str(_VOID)), default=0)
    for instance in instances:
        if instance.label == str(_VOID) and 0 < beside <= _MOST_BESIDE_VOID:
            instance.problem = Reason.VOID
    objects = [own for image in images if (own := [i for i in image.instances if not i.problem])]
    divided = [Reason.SEMANTIC_MASK in i.doubts for own in objects for i in own]
    if len(divided) == len(objects):
        return sum(divided) > _DIVIDED_ALONE * len(objects)
    gaps = sum(max(int(i.label) for i in own) > len(own) for own in objects)
    return gaps > len(objects) / 2 and sum(divided) > _DIVIDED * len(divided)


def _name(images: Sequence[RawImage], names: tuple[str, ...], by_class: bool, source: str) -> None:
    """Give each instance its class in the place of its value.

    Raises:
        DatasetError: there are values that are no class.
    """
    instances = [i for image in images for i in image.instances if not i.problem]
    is_number = by_class and (len(names) > 1 or len({i.label for i in instances}) > 1)
    pixels: Counter[int] = Counter()
    for instance in instances:
        value = int(instance.label) if is_number else 1
        if 1 <= value <= len(names):
            instance.label = names[value - 1]
        else:
            pixels[value] += rle_area(instance.rle or {})
    if not pixels:
        return
    told = [
        f"{f'#{v - _COLOUR:06x}' if v >= _COLOUR else str(v)!r} ({plural(n, 'pixel')})"
        for v, n in pixels.most_common()
    ]
    raise DatasetError(
        f"{source}: pixel values that are no class: {few(told, 20)}; expected 0 for background and "
        f"1 to {len(names)} for {list(names)!r}, as a palette or grey values. State all classes, "
        "in their order, or pixel_values: instance if the values number instances"
    )


def _read_image(masked: Masked, by_class: bool, several: bool) -> int:
    """Give an image the instances of its mask files, or its problem.

    Returns the value that covers the border of all of them, around 0; else 0.
    """
    image, masks = masked
    frames: set[int] = set()
    for path in masks:
        problem = None
        try:
            values = _read_values(path)
        except Exception:  # PIL's decoders raise nearly every type of exception on damaged files
            values, problem = np.zeros((0, 0)), Reason.IMAGE_BAD_MASK_FILE
        flaw = problem or _flaw(values)
        if flaw is Reason.MASK_CUT:
            values = np.where(values > values.max() / 2, _VOID, 0)
            image.repairs.append((flaw, path.name))
        elif flaw and several:
            own = Reason.BAD_MASK if problem else flaw
            image.instances.append(RawInstance(Place(image.file_name, path.name), problem=own))
            continue
        elif flaw:
            image.problem, image.note = flaw, path.name
            return 0
        if not several:
            image.stated_size = values.shape[0], values.shape[1]
        frames.add(_frame(values))
        classes = _classes_beside(path, values) if by_class else None
        is_class = by_class and classes is None
        for instance in _instances(values, image.file_name, path.name, is_class, several):
            if classes is not None and not instance.problem:
                shown = Counter(classes[values == int(instance.label or 0)].tolist())
                del shown[0]
                instance.label = str(max(shown, key=lambda value: shown[value], default=0))
            image.instances.append(instance)
    return frames.pop() if len(frames) == 1 else 0


def _classes_beside(path: Path, values: np.ndarray) -> np.ndarray | None:
    """The mask of classes of one of objects, in Pascal VOC's layout."""
    beside = path.parent.with_name("SegmentationClass") / path.name
    if path.parent.name != "SegmentationObject" or not beside.is_file():
        return None
    classes = _read_values(beside)
    return classes if classes.shape == values.shape else None


def _frame(values: np.ndarray) -> int:
    """The value of all pixels at the border, where 0 lies within; else 0."""
    edge = np.unique(np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]]))
    return int(edge[0]) if len(edge) == 1 and (values == 0).any() else 0


def _instances(
    values: np.ndarray, file_name: str, mask: str, by_class: bool, several: bool
) -> Iterator[RawInstance]:
    """Each value, or each connected region of it (8 neighbours); its label is the value."""
    is_binary = several and not by_class
    rles = {1: mask_to_rle(values)} if is_binary else labels_to_rles(values)
    for value, rle in rles.items():
        x, y, width, height = mask_util.toBbox(rle).astype(int).tolist()
        box = slice(y, y + height or 1), slice(x, x + width or 1)  # a pixel, if all are 0
        crop = (values[box] != 0 if is_binary else values[box] == value).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=8)
        number = abs(value) % _COLOUR
        note = f"colour #{number:06x}" if value >= _COLOUR else ""
        shown = Place(file_name, mask) if several else Place(file_name, "value", number, note)
        instance = RawInstance(shown, str(abs(value)), rle=rle)
        if value < 0:
            instance.problem = Reason.VOID
        elif not is_binary and "instanceIds" in mask and value < _STUFF:
            instance.problem = Reason.STUFF
        if not by_class:
            yield replace(instance, doubts=_doubts(stats[1:]))
            continue
        canvas = np.zeros(values.shape, dtype=np.int32)
        canvas[box] = parts
        least = min(_FRAGMENT, _FRAGMENT_SHARE * stats[1:, 4].max())
        for k, region in labels_to_rles(canvas).items():
            doubts = [Reason.FRAGMENT] if stats[k, 4] < least else []
            place = instance.place._replace(note=f"region {k}")
            yield replace(instance, place=place, rle=region, doubts=doubts)


def _doubts(pieces: np.ndarray) -> list[Reason]:
    """Of an instance in ``pieces``, (N, 5): x, y, width, height and area of each."""
    pieces = pieces[pieces[:, 4] >= _SPECK * pieces[:, 4].max(initial=0)]
    if len(pieces) < 2:
        return []
    begins, sides = pieces[:, :2], pieces[:, 2:4]
    largest = pieces[:, 4].argmax()
    gaps = np.maximum(begins - (begins + sides)[largest], begins[largest] - begins - sides)
    is_far = gaps.max() > sides[largest].max()
    return [Reason.SEMANTIC_MASK, Reason.SCATTERED] if is_far else [Reason.SEMANTIC_MASK]


def _read_values(path: Path) -> np.ndarray:
    """(height, width) whole numbers, those of colours above all others.

    Of palette images and colours, void is 0 where it touches an object, and negative elsewhere,
    where the mask has objects.
    """
    with Image.open(path) as image, np.errstate(invalid="ignore"):
        mode = image.mode
        values = np.asarray(image if mode in _NUMBERS else image.convert("RGBA"))
        values = values.astype(np.uint8 if mode in ("1", "L", "P") else np.int32)
    if values.ndim == 3:
        red, green, blue, alpha = np.moveaxis(values, 2, 0)
        values = red
        if not ((red == green) & (green == blue)).all():
            mode, values = "P", red << 16 | green << 8 | blue
            values = np.where(values == _VOID_COLOUR, _VOID, values + _COLOUR * (values > 0))
        values = np.where(alpha > 0, values, 0)
    void = values == _VOID
    objects = (values != 0) & ~void
    if mode != "P" or not objects.any() or _frame(values) == _VOID or not void.any():
        return values
    _, parts = cv2.connectedComponents(void.astype(np.uint8), connectivity=8)
    near = cv2.dilate(objects.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    is_border = np.isin(parts, np.unique(parts[near & void]))
    return np.where(void, np.where(is_border, 0, -_VOID), values)


def _flaw(values: np.ndarray) -> Reason | None:
    """Whether it is a picture, a grey mask of two values with seams, or another with seams."""
    if not ((values != 0) & (values != values.max())).any():  # soon told of most
        return None
    values = values.astype(np.int32)
    around = np.pad(values, 1, mode="reflect")
    before = np.stack([around[1:-1, :-2], around[:-2, 1:-1]])  # left, and above
    after = np.stack([around[1:-1, 2:], around[2:, 1:-1]])
    objects = values != 0
    edges = ((values != before) | (values != after)).any(axis=0) & objects
    thin = ((values != before) & (values != after)).any(axis=0) & objects
    # Smoothing: steps from one value to another. Compression: values that are nowhere wide.
    steps = (((before < values) & (values < after)) | ((before > values) & (values > after))).any(0)
    wide = np.unique(values[edges & ~thin])
    dust = np.setdiff1d(values[thin], wide)
    is_seamed = 0 < len(wide) < len(dust) >= _SEAM_VALUES or (
        (steps & objects).sum() > _STEPS * edges.sum()
        and len(np.unique(values[steps & objects])) >= _SEAM_VALUES
    )
    ends = values <= _NOISE, values >= values.max() - _NOISE
    between = ~ends[0] & ~ends[1]
    near = [cv2.dilate(end.astype(np.uint8), np.ones((_SEAM, _SEAM), np.uint8)) for end in ends]
    is_seam = np.minimum(*near)[between].sum() >= _MOSTLY * between.sum()
    is_seam &= between.sum() <= 4 * min(end.sum() for end in ends)
    if is_seamed and is_seam and _VOID / 2 < values.max() <= _VOID:
        return Reason.MASK_CUT
    if thin.mean() > _PICTURE and len(wide) + len(dust) > _PICTURE_VALUES:
        return Reason.MASK_IS_PICTURE
    return Reason.MASK_SEAMS if is_seamed else None
