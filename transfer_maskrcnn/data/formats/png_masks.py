"""Masks as PNG files: one indexed PNG an image, or one binary PNG an instance."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from transfer_maskrcnn.errors import DatasetError

from .assemble import assemble
from .base import LoadedDataset, Place, RawImage, RawInstance, Reason
from .files import (
    check_classes,
    existing,
    images_by_stem,
    list_counts,
    list_images,
    natural_key,
)
from .masks import labels_to_rles, mask_to_rle

PixelValues = Literal["instance", "class"]
_VOID = 255  # Pascal VOC's border around objects, in palette images
_THREADS = 8


def load_png_masks(
    annotations: str | Path,
    image_root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    pixel_values: PixelValues = "instance",
) -> LoadedDataset:
    """Load masks that are PNG files, in one of two layouts.

    One indexed PNG an image: ``annotations`` is the folder of the masks, each named as its image in
    ``image_root`` but for the suffix. Palette images are read as indices (255 in them is Pascal
    VOC's void and counts as background), grey ones as values, 8 or 16 bits; 0 is background. An
    image without a mask file is left out and counted; one without objects has an all-zero mask.

    One binary PNG an instance: ``annotations`` and ``image_root`` are one folder of samples, each a
    folder with one image in ``images/`` and, in ``masks/*.png``, masks that are non-zero where the
    instance is.

    Args:
        annotations: the folder of masks or samples.
        image_root: the folder of the images, or the same folder of samples.
        classes: class names. Default: ["object"].
        pixel_values: what the values of an indexed PNG mean. ``instance``: a number for each
            instance, all of one class. ``class``: k is the k-th class (from 1), and each connected
            region of it (8 neighbours) one instance, so that instances that touch become one.

    Raises:
        DatasetError: for a folder that is missing or has neither layout, colour images as masks,
            pixel values above the number of classes, several classes where only one can be told,
            and where no image can be used.
    """
    names = check_classes(classes) or ("object",)
    folder = existing(annotations, "annotations", "folder")
    root = existing(image_root, "image_root", "folder")
    if pixel_values not in ("instance", "class"):
        raise DatasetError(f"pixel_values is {pixel_values!r}; expected 'instance' or 'class'")
    samples = [p for p in folder.iterdir() if (p / "images").is_dir()]
    if samples:
        images = read_samples(samples, names)
    else:
        images = read_indexed(folder, root, names, pixel_values)
    return assemble(images, classes=names, source=str(folder))


def read_samples(samples: Sequence[Path], names: tuple[str, ...]) -> list[RawImage]:
    """One image a sample folder, its instances from ``masks/*.png``."""
    _only_class(names, "one binary PNG an instance")
    ordered = sorted(samples, key=lambda p: natural_key(p.name))
    images = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for image_id, sample in enumerate(ordered, start=1):
            found = list_images(sample / "images")
            if len(found) > 1:
                raise DatasetError(f"{sample / 'images'} has {len(found)} images; expected one")
            file_name = found[0] if found else sample / "images" / f"{sample.name}.png"
            image = RawImage(str(file_name), image_id)
            masks = sorted((sample / "masks").glob("*.png"), key=lambda p: natural_key(p.name))
            for mask, rle in zip(masks, pool.map(_read_binary, masks), strict=True):
                problem = None if rle else Reason.BAD_MASK
                place = Place(part=mask.name)
                image.instances.append(RawInstance(place, names[0], rle=rle, problem=problem))
            if not masks:
                image.problem = Reason.IMAGE_WITHOUT_MASK_FILE
            images.append(image)
    return images


def _read_binary(path: Path) -> dict[str, Any] | None:
    """The RLE of one mask file, or None where it cannot be read."""
    try:
        with Image.open(path) as image:
            grey = image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("L")
            return mask_to_rle(np.asarray(grey))
    except Exception:  # PIL's decoders raise nearly every type of exception on damaged files
        return None


def read_indexed(
    folder: Path, root: Path, names: tuple[str, ...], pixel_values: PixelValues
) -> list[RawImage]:
    """One image a mask file, and one without a mask for every other image in ``root``."""
    masks = [p for p in list_images(folder) if p.suffix.lower() == ".png"]
    if not masks:
        raise DatasetError(
            f"{folder} has neither *.png masks nor sample folders with images/ and masks/ in them"
        )
    if pixel_values == "instance":
        _only_class(names, "pixel values that are instance numbers (pixel_values='instance')")
    own = {mask.resolve() for mask in masks}
    by_stem = images_by_stem(p for p in list_images(root) if p.resolve() not in own)
    with ThreadPoolExecutor(_THREADS) as pool:
        parsed = list(pool.map(lambda path: _read_mask(path, names, pixel_values), masks))
    found = {mask.stem: image for mask, image in zip(masks, parsed, strict=True)}
    for stem, path in by_stem.items():
        image = found.setdefault(stem, RawImage("", 0, problem=Reason.IMAGE_WITHOUT_MASK_FILE))
        image.file_name = str(path)
    ordered = [found[stem] for stem in sorted(found, key=natural_key)]
    for image_id, image in enumerate(ordered, start=1):
        image.image_id = image_id
    return ordered


def _read_mask(path: Path, names: tuple[str, ...], pixel_values: PixelValues) -> RawImage:
    """The instances of one indexed PNG; ``file_name`` is a stand-in beside it."""
    image = RawImage(str(path.with_suffix("")), 0)
    labels = read_labels(path)
    if labels is None:
        image.problem = Reason.IMAGE_BAD_MASK_FILE
        return image
    image.stated_size = (labels.shape[0], labels.shape[1])
    if pixel_values == "instance":
        image.instances = [
            RawInstance(Place("", "value", value), names[0], rle=rle)
            for value, rle in labels_to_rles(labels).items()
        ]
    else:
        image.instances = split_classes(labels, names, str(path))
    return image


def read_labels(path: Path) -> np.ndarray | None:
    """The values of an indexed PNG, (height, width) int32; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image).astype(np.int32)
    except Exception:  # PIL's decoders raise nearly every type of exception on damaged files
        return None
    if values.ndim != 2:
        raise DatasetError(
            f"{path} is a colour image (mode {mode}); expected indexed or grey values, one number "
            "a pixel. Save it with a palette, or as 8- or 16-bit grey"
        )
    if mode == "P":
        values[values == _VOID] = 0
    return values


def split_classes(labels: np.ndarray, names: tuple[str, ...], source: str) -> list[RawInstance]:
    """Each connected region of a class, (height, width) with values 0 to K, as an instance."""
    values, pixels = np.unique(labels, return_counts=True)
    unknown = {
        str(value): int(count)
        for value, count in zip(values, pixels, strict=True)
        if not 0 <= value <= len(names)
    }
    if unknown:
        raise DatasetError(
            f"{source}: pixel values that are no class: {list_counts(unknown)}; expected 0 for "
            f"background and 1 to {len(names)} for {list(names)!r}"
        )
    instances = []
    for value in values[values > 0].tolist():
        _, regions = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=8)
        for number, rle in labels_to_rles(regions).items():
            place = Place("", "value", value, f"region {number}")
            instances.append(RawInstance(place, names[value - 1], rle=rle))
    return instances


def _only_class(names: tuple[str, ...], layout: str) -> None:
    if len(names) > 1:
        raise DatasetError(
            f"classes is {list(names)!r}, but {layout} cannot tell one class from another: name "
            "one class, or use indexed PNGs of class numbers with pixel_values='class'"
        )
