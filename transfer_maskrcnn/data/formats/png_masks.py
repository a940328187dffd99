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

from .assemble import Merge, assemble
from .base import LoadedDataset, Place, RawImage, RawInstance, Reason
from .files import (
    THREADS,
    ImageFolder,
    existing,
    list_counts,
    list_images,
    natural_key,
)
from .masks import labels_to_rles, mask_to_rle

PixelValues = Literal["instance", "class"]
_VOID = 255  # Pascal VOC's border around objects, in palette images


def load_png_masks(
    annotations: str | Path,
    image_root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
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
        merge: class -> its labels, which stand in its place where classes are counted.
        pixel_values: what the values of an indexed PNG mean. ``instance``: a number for each
            instance, all of one class. ``class``: k is the k-th class (from 1), and each connected
            region of it (8 neighbours) one instance, so that instances that touch become one.

    Raises:
        DatasetError: for a folder that is missing or has neither layout, colour images as masks,
            pixel values above the number of classes, several classes where only one can be told,
            and where no image can be used.
    """
    own, merged = classes or ("object",), merge or {}
    names = tuple(label for name in own for label in merged.get(name, (name,)))
    folder = existing(annotations, "annotations", "folder")
    root = ImageFolder(image_root)
    if pixel_values not in ("instance", "class"):
        raise DatasetError(f"pixel_values is {pixel_values!r}; expected 'instance' or 'class'")
    samples = [p for p in folder.iterdir() if (p / "images").is_dir()]
    images = (
        read_samples(samples, names) if samples else read_indexed(folder, root, names, pixel_values)
    )
    known = {name: k for k, name in enumerate(names, start=1)}
    return assemble(images, str(folder), classes, merge, known=known)


def read_samples(samples: Sequence[Path], names: tuple[str, ...]) -> list[RawImage]:
    """One image a sample folder, its instances from ``masks/*.png``."""
    _only_class(names, "one binary PNG an instance")
    images: list[RawImage] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for sample in sorted(samples, key=lambda p: natural_key(p.name)):
            found = list_images(sample / "images")
            if len(found) > 1:
                raise DatasetError(f"{sample / 'images'} has {len(found)} images; expected one")
            file_name = str(found[0] if found else sample / "images" / f"{sample.name}.png")
            masks = sorted((sample / "masks").glob("*.png"), key=lambda p: natural_key(p.name))
            image = RawImage(file_name, image_id=len(images) + 1)
            image.problem = None if masks else Reason.IMAGE_WITHOUT_MASK_FILE
            for mask, rle in zip(masks, pool.map(_read_binary, masks), strict=True):
                problem = None if rle else Reason.BAD_MASK
                place = Place(file_name, mask.name)
                image.instances.append(RawInstance(place, names[0], rle=rle, problem=problem))
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
    folder: Path, root: ImageFolder, names: tuple[str, ...], pixel_values: PixelValues
) -> list[RawImage]:
    """One image a mask file, and one without a mask for every other image in ``root``."""
    masks = [p for p in list_images(folder) if p.suffix.lower() == ".png"]
    if not masks:
        raise DatasetError(
            f"{folder} has neither *.png masks nor sample folders with images/ and masks/ in them"
        )
    if pixel_values == "instance":
        _only_class(names, "pixel values that are instance numbers (pixel_values='instance')")
    mask_of = {mask.stem: mask for mask in masks}
    by_stem = root.by_stem(leave_out={mask.resolve() for mask in masks})
    images, masked = [], []
    for image_id, stem in enumerate(sorted(mask_of | by_stem, key=natural_key), start=1):
        file = by_stem.get(stem) or mask_of[stem].with_suffix("")  # a stand-in beside the mask
        image = RawImage(str(file), image_id, problem=Reason.IMAGE_WITHOUT_MASK_FILE)
        images.append(image)
        if stem in mask_of:
            masked.append((image, mask_of[stem], names, pixel_values))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_read_mask, *zip(*masked, strict=True)))
    return images


def _read_mask(
    image: RawImage, path: Path, names: tuple[str, ...], pixel_values: PixelValues
) -> None:
    """Add the instances of an image's indexed PNG to it."""
    labels = read_labels(path)
    if labels is None:
        image.problem = Reason.IMAGE_BAD_MASK_FILE
        return
    image.problem, image.stated_size = None, (labels.shape[0], labels.shape[1])
    if pixel_values == "class":
        image.instances = split_classes(labels, names, str(path), image.file_name)
        return
    for value, rle in labels_to_rles(labels).items():
        place = Place(image.file_name, "value", value)
        image.instances.append(RawInstance(place, names[0], rle=rle))


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


def split_classes(
    labels: np.ndarray, names: tuple[str, ...], source: str, file_name: str
) -> list[RawInstance]:
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
            place = Place(file_name, "value", value, f"region {number}")
            instances.append(RawInstance(place, names[value - 1], rle=rle))
    return instances


def _only_class(names: tuple[str, ...], layout: str) -> None:
    if len(names) > 1:
        raise DatasetError(
            f"classes is {list(names)!r}, but {layout} cannot tell one class from another: name "
            "one class, or use indexed PNGs of class numbers with pixel_values='class'"
        )
