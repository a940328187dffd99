"""The folder that predictions are written to, while the images come; each file whole, or not there.

``predictions.json`` and ``images.json``, and the video of overlays, grow with each image. They take
their names when the work ends, in whatever way, with all that was done by then.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.data.export import labelme_document
from transfer_maskrcnn.errors import ConfigError, DatasetError
from transfer_maskrcnn.files import atomic_path, write_json
from transfer_maskrcnn.inference.drawing import draw_detections
from transfer_maskrcnn.inference.inputs import Video
from transfer_maskrcnn.inference.predictor import Detection, Pixels

OVERLAY, JSON, MASKS, LABELME = "overlay", "json", "masks", "labelme"
PREDICTIONS_FILE, IMAGES_FILE = "predictions.json", "images.json"
_WRITTEN = (PREDICTIONS_FILE, IMAGES_FILE, "overlays", "masks", "labelme")
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 93),
    # Thin coloured lines would bleed where colours have a quarter of the pixels.
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video, that was predicted on.

    Attributes:
        path: the file it is from.
        name: of what is written about it, without a suffix.
        pixels: (height, width, 3), BGR.
        frame: its number in the video, from 0 on.
    """

    path: Path
    name: str
    pixels: Pixels
    frame: int | None = None


#: Writes what was found in a picture: in its pixels, best first.
Write = Callable[[Picture, Sequence[Detection]], object]


def check_output(folder: Path) -> None:
    """Make the folder, and see that files can be written there, before a model is loaded.

    Raises:
        ConfigError: it cannot be made or written to, or holds what was predicted before: some of
            that may have been corrected by hand, and the rest would be mixed with what is new.
    """
    if earlier := [name for name in _WRITTEN if (folder / name).exists()]:
        raise ConfigError(
            f"--output {folder} holds {', '.join(earlier)} of an earlier prediction; name another "
            "folder, or move them away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"--output {folder}: cannot write there ({error.strerror}); name a folder of yours"
        ) from None


@contextmanager
def open_outputs(
    folder: Path, classes: Sequence[str], kinds: Collection[str], video: Video | None = None
) -> Iterator[list[Write]]:
    """Gives what is to be called with each picture and what was found in it, best first.

    Args:
        classes: names in the model's order.
        kinds: of OVERLAY, JSON, MASKS and LABELME, those wanted.
        video: what the pictures are frames of; their overlays are a video then.
    """
    by_picture = {OVERLAY: write_overlay, MASKS: write_masks, LABELME: write_labelme}
    writes: dict[str, Write] = {k: partial(w, folder, classes) for k, w in by_picture.items()}
    with ExitStack() as stack:
        if video and OVERLAY in kinds:
            path = folder / "overlays" / f"{video.path.stem}.mp4"
            add_frame = stack.enter_context(video_file(path, video.rate, video.size))
            writes[OVERLAY] = lambda picture, found: add_frame(
                draw_detections(picture.pixels, found, classes)
            )
        if JSON in kinds:
            writes[JSON] = stack.enter_context(result_files(folder, classes))
        yield [write for kind, write in writes.items() if kind in kinds]


def write_overlay(
    folder: Path, classes: Sequence[str], picture: Picture, found: Sequence[Detection]
) -> None:
    drawn = draw_detections(picture.pixels, found, classes)
    _write_image(folder / "overlays" / f"{picture.name}.jpg", drawn)


def write_masks(
    folder: Path, classes: Sequence[str], picture: Picture, found: Sequence[Detection]
) -> None:
    """One PNG an instance, 255 where it is: ``001_cat_0.93.png``."""
    own = folder / "masks" / picture.name
    own.mkdir(parents=True, exist_ok=True)
    for number, detection in enumerate(found, 1):
        if detection.segmentation is not None:
            name = re.sub(r"[^\w-]+", "_", classes[detection.class_index])
            mask = mask_util.decode(detection.segmentation) * np.uint8(255)
            _write_image(own / f"{number:03d}_{name}_{detection.score:.2f}.png", mask)


def write_labelme(
    folder: Path, classes: Sequence[str], picture: Picture, found: Sequence[Detection]
) -> None:
    file = folder / "labelme" / f"{picture.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {**_image(picture), "annotations": [_annotation(d) for d in found]}
    relative = os.path.relpath(picture.path.resolve(), file.parent.resolve())
    document = {**labelme_document(record, classes), "imagePath": Path(relative).as_posix()}
    write_json(file, document)


def _annotation(detection: Detection) -> dict[str, Any]:
    x, y, width, height = detection.bbox
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "category_id": detection.class_index,
        "segmentation": detection.segmentation or [corners],
        "score": detection.score,
    }


def _write_image(path: Path, pixels: Pixels) -> None:
    """In the format of the suffix.

    Raises:
        DatasetError: the format cannot hold it (a JPEG of over 65,500 pixels a side).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, encoded = cv2.imencode(path.suffix, pixels, _JPEG if path.suffix == ".jpg" else [])
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot be encoded: {' '.join(str(error).split())}") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


@contextmanager
def result_files(folder: Path, classes: Sequence[str]) -> Iterator[Write]:
    """``COCO("images.json").loadRes("predictions.json")`` reads the two files.

    ``predictions.json`` is a list of COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y,
    width, height), ``score``, ``segmentation`` (RLE), in pixels of the image. ``images.json`` says
    what the ids mean; both count from 1, categories in the order of the model's classes.

    Both hold the images that were added whole. Until the end the detections are in a file beside,
    not in memory.
    """
    images: list[dict[str, Any]] = []
    growing = folder / f".{PREDICTIONS_FILE}.part"
    with growing.open("w+b") as file:
        whole = file.write(b"[")

        def add(picture: Picture, found: Sequence[Detection]) -> None:
            nonlocal whole
            for detection in found:
                line = json.dumps(_result(len(images) + 1, detection))
                file.write(f"{',' if file.tell() > 1 else ''}\n{line}".encode())
            images.append({"id": len(images) + 1, **_image(picture)})
            whole = file.tell()

        try:
            yield add
        finally:
            file.seek(whole)  # Ctrl-C may have come in the middle of an image
            file.truncate()
            file.write(b"\n]\n")
            file.close()
            categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
            write_json(
                folder / IMAGES_FILE,
                {"info": {}, "images": images, "annotations": [], "categories": categories},
            )
            os.replace(growing, folder / PREDICTIONS_FILE)


def _image(picture: Picture) -> dict[str, Any]:
    return {
        "file_name": picture.path.as_posix(),
        "name": picture.name,
        "height": picture.pixels.shape[0],
        "width": picture.pixels.shape[1],
        **({} if picture.frame is None else {"frame": picture.frame}),
    }


def _result(image_id: int, detection: Detection) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": detection.class_index + 1,
        "bbox": list(detection.bbox),
        "score": detection.score,
        **({"segmentation": detection.segmentation} if detection.segmentation else {}),
    }


@contextmanager
def video_file(
    path: Path, rate: float, size: tuple[int, int]
) -> Iterator[Callable[[Pixels], object]]:
    """Gives a function that adds a frame to an .mp4 file, which is whole when the block ends.

    Args:
        rate: frames a second.
        size: (height, width) in pixels.

    Raises:
        DatasetError: OpenCV cannot write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    growing = path.with_name(f".{path.stem}.part.mp4")  # OpenCV goes by the suffix
    writer = cv2.VideoWriter(str(growing), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
    if not writer.isOpened():
        growing.unlink(missing_ok=True)
        raise DatasetError(
            f"{path}: this build of OpenCV writes no mp4v video; leave --overlay out"
        )
    try:
        yield writer.write
    finally:
        writer.release()
        os.replace(growing, path)
