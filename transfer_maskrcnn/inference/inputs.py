"""What a user names as input -> image files, each with a name of its own for what is written."""

from __future__ import annotations

import glob
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image

from transfer_maskrcnn.data.formats.base import WORDS
from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES, list_images, probe_image
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.inference.predictor import Pixels

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))
_CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(given: Sequence[str], output: Path) -> list[Path]:
    """The files that paths, folders and globs name, each once, in the order given.

    A folder stands for the image files directly in it, in natural order of their names; a glob for
    the image files that match it, with ``**`` for folders at any depth, but not for what an earlier
    run left in ``output``. A path that is a file is
    taken whatever its suffix, and may be a video.

    Raises:
        DatasetError: something that names no image, or a video that is not alone.
    """
    found = [path for text in given for path in _named_by(text, output)]
    by_file: dict[Path, Path] = {}
    for path in found:
        by_file.setdefault(path.resolve(), path)
    unique = list(by_file.values())
    videos = [path for path in unique if is_video(path)]
    if videos and len(unique) > 1:
        raise DatasetError(
            f"--input {videos[0]}: a video is taken alone, and {len(unique) - 1} more files are "
            "named; run the tool once for each video and once for the images"
        )
    return unique


def _named_by(text: str, output: Path) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        images = list_images(path)
        if not images:
            deeper = f"'{path / '**' / '*.jpg'}'"
            raise DatasetError(
                f"--input {text}: the folder holds no image file ({_suffixes()}). Folders within "
                f"it are not searched; name them, or {deeper} in quotes"
            )
        return images
    if path.exists():
        return [path]
    if glob.has_magic(text):
        own = {output.resolve() / name for name in ("overlays", "masks")}
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
        images = [
            path
            for path in matches
            if path.suffix.lower() in IMAGE_SUFFIXES
            and path.is_file()
            and own.isdisjoint(path.resolve().parents)
        ]
        if not images:
            raise DatasetError(f"--input {text}: no image file matches ({_suffixes()})")
        return images
    hint = "; check the path"
    if _CONFIG_KEY.fullmatch(text):
        hint = ". A KEY VALUE pair must not follow --input's paths: write it after --output DIR"
    raise DatasetError(f"--input {text}: there is no such file or folder{hint}")


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def output_names(paths: Sequence[Path]) -> list[str]:
    """For each path a name without suffix that no other has, nor one that differs in case alone.

    The file's stem, where it is unique; ``stem-png`` beside another suffix in the same folder;
    with as many parent folders in front (``day2-photo``) as tell the files apart.
    """
    whole = [path.resolve() for path in paths]
    twins = Counter((path.parent, path.stem.casefold()) for path in whole)
    stems = [
        path.stem
        if twins[path.parent, path.stem.casefold()] == 1
        else f"{path.stem}-{path.suffix.lstrip('.')}"
        for path in whole
    ]
    names, deepest = list(stems), max((len(path.parts) for path in whole), default=0)
    for depth in range(1, deepest):
        times = Counter(name.casefold() for name in names)
        for i, path in enumerate(whole):
            if times[names[i].casefold()] > 1:
                folders = path.parent.parts[1:][-depth:]
                names[i] = "-".join([*folders, stems[i]])
    return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that are still alike ("a-b" beside "b" in a folder "a") get a number."""
    taken: set[str] = set()
    unique = []
    for name in names:
        free, number = name, 2
        while free.casefold() in taken:
            free, number = f"{name}-{number}", number + 1
        taken.add(free.casefold())
        unique.append(free)
    return unique


def read_bgr(path: Path) -> Pixels:
    """An image file as detectron2 reads it, EXIF orientation applied: (height, width, 3), BGR.

    Raises:
        DatasetError: it cannot be read, or is of a kind that training leaves out, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on odd but readable images
        reason = probe_image(str(path)).problem
        problem = WORDS[reason] if reason else ""
        if not problem:
            try:
                return np.ascontiguousarray(read_image(str(path), format="BGR"))
            except Exception as error:  # PIL's decoders raise nearly every type of exception
                problem = " ".join(str(error).split()) or type(error).__name__
    raise DatasetError(f"{path}: {problem}")
