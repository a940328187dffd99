"""The folder that predictions are written to while the images come; files are whole or not there.

What was found is noted in a :class:`Journal`, an image at a time, of which ``predictions.json`` and
``images.json`` are made when the work ends. After a kill, or on a full disk, it stays, and the same
command goes on behind it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from transfer_maskrcnn.errors import ConfigError, DatasetError
from transfer_maskrcnn.files import atomic_path, lock, write_json
from transfer_maskrcnn.inference.inputs import Video
from transfer_maskrcnn.inference.results import Pixels, Result

OVERLAY, JSON, MASKS, LABELME = "overlay", "json", "masks", "labelme"
LABELME_MASKS = "labelme_masks"
PREDICTIONS_FILE, IMAGES_FILE = "predictions.json", "images.json"
JOURNAL_FILE = ".unfinished.jsonl"
_WRITTEN = (PREDICTIONS_FILE, IMAGES_FILE, "overlays", "masks", "labelme")
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 93),
    # Thin coloured lines would bleed where colours have a quarter of the pixels.
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]


#: Writes what was found in a picture, whose pixels are there.
Write = Callable[[Result], object]


def check_output(folder: Path, command: str) -> None:
    """Make the folder, and see that files can be written there, before a model is loaded.

    Args:
        command: what is asked for; see :class:`Journal`.

    Raises:
        ConfigError: it cannot be made or written to, or holds what was predicted before: some of
            that may have been corrected by hand, and the rest would be mixed with what is new.
    """
    journal = folder / JOURNAL_FILE
    if journal.is_file():
        if next(_entries(journal), (0, _opening(command)))[1] != _opening(command):
            raise ConfigError(
                f"--output {folder} holds an unfinished prediction of other images, or with "
                "another model or other options: the same command as then goes on with it; or name "
                "another folder"
            )
    elif earlier := [name for name in _WRITTEN if (folder / name).exists()]:
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


class Journal:
    """What was predicted so far: a line of JSON an image, behind a line that says for what command.

    Attributes:
        done: name of a picture -> the class indices that were found in it.
    """

    def __init__(self, folder: Path, command: str, again: bool = False):
        """
        Args:
            command: a digest of all that a result depends on, and of the images.
            again: begin anew, whatever is there: nothing can be added to half a video.

        Raises:
            OSError: it cannot be written.
            ConfigError: another process writes into the folder.
        """
        self._folder, path = folder, folder / JOURNAL_FILE
        self.done: dict[str, list[int]] = {}
        self._file = path.open("a+b")
        if not lock(self._file):
            raise ConfigError(
                f"another prediction writes into --output {folder}; name another folder, or wait"
            )
        size = 0
        for end, entry in () if again else _entries(path):
            if size:
                found = [result["category_id"] - 1 for result in entry["found"]]
                self.done[entry["image"]["name"]] = found
            size = end
        self._file.truncate(size)  # a kill may have come within a line
        if not size:
            self._write(_opening(command))

    def add(self, result: Result) -> None:
        self._write({"image": result.describe(), "found": [d.to_coco() for d in result.detections]})

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(f"{json.dumps(entry)}\n".encode())
            self._file.flush()
        except OSError as error:
            error.filename = str(self._folder / JOURNAL_FILE)
            raise

    def close(self, classes: Sequence[str] | None, *, is_done: bool) -> None:
        """Make the two files of it for ``classes``; None: none are wanted.

        ``COCO("images.json").loadRes("predictions.json")`` reads them. ``predictions.json`` is a
        list of COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height),
        ``score``, ``segmentation`` (RLE), in pixels of the image. ``images.json`` says what the ids
        mean; both count from 1, categories in the order of the model's classes.
        """
        self._file.close()
        path = self._folder / JOURNAL_FILE
        if classes is not None:
            images: list[dict[str, Any]] = []
            with atomic_path(self._folder / PREDICTIONS_FILE) as growing, growing.open("w") as file:
                file.write("[")
                for _, entry in islice(_entries(path), 1, None):
                    number = len(images) + 1
                    images.append({"id": number, **entry["image"]})
                    for found in entry["found"]:
                        comma = "," if file.tell() > 1 else ""
                        file.write(f"{comma}\n{json.dumps({'image_id': number, **found})}")
                file.write("\n]\n")
            categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
            write_json(
                self._folder / IMAGES_FILE,
                {"info": {}, "images": images, "annotations": [], "categories": categories},
            )
        if is_done:
            path.unlink()


def _opening(command: str) -> dict[str, Any]:
    return {"command": command}


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the lines of a journal hold, each with where it ends in the file; up to the first that a
    kill or a full disk cut short."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield end, entry


@contextmanager
def open_outputs(
    folder: Path,
    classes: Sequence[str],
    kinds: Collection[str],
    journal: Journal,
    video: Video | None = None,
) -> Iterator[list[Write]]:
    """Gives what is to be called with the result of each picture.

    Args:
        classes: names in the model's order.
        kinds: of OVERLAY, JSON, MASKS, LABELME and LABELME_MASKS, those wanted.
        journal: is closed; that an image is done is noted last.
        video: what the pictures are frames of; their overlays are a video then.
    """
    by_picture = {OVERLAY: write_overlay, MASKS: write_masks, LABELME: write_labelme}
    writes: dict[str, Write] = {kind: partial(w, folder) for kind, w in by_picture.items()}
    writes[LABELME_MASKS] = partial(write_labelme, folder, masks=True)
    named, is_done = classes if JSON in kinds else None, False
    try:
        with ExitStack() as stack:
            if video and OVERLAY in kinds:
                path = folder / "overlays" / f"{video.path.stem}.mp4"
                add_frame = stack.enter_context(video_file(path, video.rate, video.size))
                writes[OVERLAY] = lambda result: add_frame(result.plot_bgr())
            yield [*(write for kind, write in writes.items() if kind in kinds), journal.add]
            is_done = True
    except OSError:  # a full disk: nothing more can be written, and the journal stays
        named = None
        raise
    finally:
        journal.close(named, is_done=is_done)


def write_overlay(folder: Path, result: Result) -> None:
    _write_image(folder / "overlays" / f"{result.name}.jpg", result.plot_bgr())


def write_masks(folder: Path, result: Result) -> None:
    """One PNG an instance, 255 where it is: ``001_cat_0.93.png``."""
    own = folder / "masks" / result.name
    own.mkdir(parents=True, exist_ok=True)
    for number, (class_name, found) in enumerate(zip(result.names, result.detections, strict=True)):
        if found.segmentation is not None:
            name = re.sub(r"[^\w-]+", "_", class_name)
            mask = mask_util.decode(found.segmentation) * np.uint8(255)
            _write_image(own / f"{number + 1:03d}_{name}_{found.score:.2f}.png", mask)


def write_labelme(folder: Path, result: Result, masks: bool = False) -> None:
    file = folder / "labelme" / f"{result.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    relative = os.path.relpath(Path(result.path or "").resolve(), file.parent.resolve())
    document = {**result.to_labelme(masks), "imagePath": Path(relative).as_posix()}
    write_json(file, document)


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
