"""What a user names as input -> image files, a video or pixels, and a name for what is written."""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import IOBase
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageOps

from transfer_maskrcnn.data.formats.base import WORDS
from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES, list_images, probe_image
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.inference.results import Picture, Pixels

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(
    given: Sequence[str], output: Path | None = None, flag: str = "--input "
) -> list[Path]:
    """The files that paths, folders and globs name, each once, in the order given.

    A folder stands for the image files directly in it, in natural order of their names; a glob for
    the image files that match it, with ``**`` for folders at any depth, but not for what an earlier
    run left in ``output``. A path that is a file is taken whatever its suffix, and may be a video.

    Args:
        flag: what errors begin with.

    Raises:
        DatasetError: something that names no image, or a video that is not alone.
    """
    by_file: dict[Path, Path] = {}
    for path in [path for text in given for path in _named_by(text, output, flag)]:
        by_file.setdefault(path.resolve(), path)
    unique = list(by_file.values())
    if len(unique) > 1 and (videos := list(filter(is_video, unique))):
        raise DatasetError(
            f"{flag}{videos[0]}: a video is taken alone, and {len(unique) - 1} more files are "
            "named; run the tool once for each video and once for the images"
        )
    return unique


def _named_by(text: str, output: Path | None, flag: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        found, none = list_images(path), "the folder holds no image file"
        deeper = path / "**" / "*.jpg"
        hint = f". Folders within it are not searched; name them, or '{deeper}' in quotes"
    elif glob.has_magic(text):
        found, none, hint = _matching(text, output), "no image file matches", ""
    else:
        hint = "check the path"
        if text.isupper() and text.replace(".", "_").isidentifier():
            hint = "a KEY VALUE pair must not follow --input's paths: write it after --output DIR"
        raise DatasetError(f"{flag}{text}: there is no such file or folder; {hint}")
    if not found:
        raise DatasetError(f"{flag}{text}: {none} ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    return found


def _matching(pattern: str, output: Path | None) -> list[Path]:
    own = {output.resolve() / name for name in ("overlays", "masks")} if output else set()
    return [
        path
        for path in sorted(map(Path, glob.glob(pattern, recursive=True)))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and own.isdisjoint(path.resolve().parents)
    ]


def output_names(paths: Sequence[Path]) -> list[str]:
    """For each path a name without suffix that no other has, nor one that differs in case alone.

    The file's stem, where it is unique; ``stem-png`` beside another suffix in the same folder;
    with as many parent folders in front (``day2-photo``) as tell the files apart. Names that are
    still alike ("a-b" beside "b" in a folder "a") get a number.
    """
    whole = [path.resolve() for path in paths]
    twins = Counter((path.parent, path.stem.casefold()) for path in whole)
    stems = [
        path.stem
        if twins[path.parent, path.stem.casefold()] == 1
        else f"{path.stem}-{path.suffix.lstrip('.')}"
        for path in whole
    ]
    names = list(stems)
    for depth in range(1, max((len(path.parts) for path in whole), default=0)):
        times = Counter(name.casefold() for name in names)
        for i, path in enumerate(whole):
            if times[names[i].casefold()] > 1:
                names[i] = "-".join([*path.parent.parts[1:][-depth:], stems[i]])
    taken: set[str] = set()
    for i, name in enumerate(names):
        numbered = (f"{name}-{number}" if number > 1 else name for number in count(1))
        names[i] = next(free for free in numbered if free.casefold() not in taken)
        taken.add(names[i].casefold())
    return names


def read_bgr(path: Path) -> Pixels:
    """An image file as detectron2 reads it, EXIF orientation applied: (height, width, 3), BGR.

    Raises:
        DatasetError: it cannot be read, or is of a kind that training leaves out, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on odd but readable images
        if reason := probe_image(str(path)).problem:
            raise DatasetError(f"{path}: {WORDS[reason]}")
        try:
            return np.ascontiguousarray(read_image(str(path), format="BGR"))
        except Exception as error:  # PIL's decoders raise nearly every type of exception
            raise DatasetError(
                f"{path}: {' '.join(str(error).split()) or type(error).__name__}"
            ) from None


def is_one_image(images: Any) -> bool:
    """Whether it is a file or pixels, not a folder, a glob, a video or an iterable of images."""
    if isinstance(images, (str, os.PathLike)):
        return os.path.isfile(images) and not is_video(Path(images))
    return isinstance(images, Image.Image) or hasattr(images, "__array__")


def pictures_of(images: Any) -> Iterator[Picture]:
    """What :class:`~transfer_maskrcnn.inference.model.Model` takes, one picture at a time.

    Raises:
        DatasetError: something that is no image, names none, or cannot be read.
    """
    if isinstance(images, (str, os.PathLike)):
        for path in find_inputs([os.fspath(images)], flag=""):
            if is_video(path):
                yield from frames_of(path, Video(path))
            else:
                yield Picture(read_bgr(path), path, path.stem)
    elif is_one_image(images):
        yield Picture(_bgr_of(images), None, "0")
    elif isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray, IOBase)):
        for number, image in enumerate(images):
            for picture in pictures_of(image):
                yield picture if picture.path else replace(picture, name=str(number))
    else:
        raise DatasetError(
            f"an image of type {type(images).__name__}; expected a path, a folder, a glob, a PIL "
            "image, an array (height, width, 3) in RGB, or an iterable of these; of a file's bytes "
            "PIL.Image.open(io.BytesIO(data)) makes one"
        )


def frames_of(path: Path, frames: Iterable[Pixels]) -> Iterator[Picture]:
    """A video's frames as pictures."""
    return (Picture(f, path, f"{path.stem}_{n:06d}", n) for n, f in enumerate(frames))


def _bgr_of(image: Any) -> Pixels:
    """
    Raises:
        DatasetError: another shape or type, other values than 8 bits, or damaged.
    """
    try:
        if isinstance(image, Image.Image):
            deep = image.mode[0] in "IF"  # 16 bits and more, which PIL would cut off
            turned = ImageOps.exif_transpose(image)
            image = turned if deep else turned.convert("RGB")
        pixels = np.asarray(image)
    except Exception as error:  # of PIL's decoders, or of a tensor that is on a GPU
        raise DatasetError(f"an image ({type(image).__name__}): {error}") from None
    grey = pixels.ndim == 2
    if (
        pixels.dtype != np.uint8
        or not (grey or pixels.shape[2:] in ((3,), (4,)))
        or not pixels.size
    ):
        raise DatasetError(
            f"an image ({type(image).__name__}) of {pixels.dtype} and shape {pixels.shape}; "
            "expected uint8, 0 to 255, and (height, width, 3) in RGB or (height, width) in grey: "
            "(255 * image).astype('uint8') where it is 0 to 1, image.transpose(1, 2, 0) where "
            "channels come first, image[:, :, 0] where there is one, list(images) of a batch"
        )
    rgb = np.stack([pixels] * 3, axis=-1) if grey else pixels[:, :, :3]
    return np.ascontiguousarray(rgb[:, :, ::-1])


class Video:
    """A video file that can be read.

    Attributes:
        path: the file.
        frames: how many it says it has; 0 where it does not say.
        rate: frames a second.
        size: (height, width) in pixels, as shown.
    """

    def __init__(self, path: Path):
        """
        Raises:
            DatasetError: it holds no frame that OpenCV can read.
        """
        self.path = path
        capture = cv2.VideoCapture(str(path))
        read, first = capture.read()
        if not read:
            raise DatasetError(
                f"{path}: OpenCV reads no frame of this video; convert it, for example to H.264 "
                "in .mp4"
            )
        self.frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate = capture.get(cv2.CAP_PROP_FPS) or 25.0  # for files that do not say
        self.size: tuple[int, int] = first.shape[:2]

    def __iter__(self) -> Iterator[Pixels]:
        """Frames from the first to the last that can be read, (height, width, 3), BGR."""
        capture = cv2.VideoCapture(str(self.path))
        while (frame := capture.read()[1]) is not None:
            yield np.asarray(frame, dtype=np.uint8)
