"""What parsers share: files and their values, images, class names; a clear error for each flaw."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from transfer_maskrcnn.errors import DatasetError, nearest
from transfer_maskrcnn.text import few, plural, shorten

from .base import Reason
from .foreign import describe, describe_bytes

T = TypeVar("T")
R = TypeVar("R")
_MAX_SHOWN = 80
_KINDS = {
    dict: "an object {...}",
    list: "a list [...]",
    str: "a text",
    int: "a whole number",
}


def existing(path: str | Path, what: str, kind: Literal["file", "folder"]) -> Path:
    """``path`` as a Path; an error that says what to do unless it is a file, or folder."""
    path = Path(path)
    # os.path's answer is "no" for a name that no disk can hold, too
    found = "folder" if os.path.isdir(path) else "file" if os.path.isfile(path) else ""
    if found == kind:
        return path
    state = f"is a {found}" if found else "does not exist"
    shown = shorten(str(path), 400)
    raise DatasetError(f"{what} {shown} {state}; expected a {kind}. Check the path")


def read_text(path: Path) -> str:
    if path.exists() and not path.is_file():  # to read a pipe would never end
        raise DatasetError(f"{path} is no file; expected annotations")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a third of the time of read_text
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    except UnicodeDecodeError as e:
        kind = describe_bytes(e.object[:_TAIL_BYTES])
        looks = f": it looks like {kind}" if kind else "; expected annotations, saved as UTF-8"
        raise DatasetError(f"{path} is not UTF-8 text (byte {e.start}){looks}") from e
    except OSError as e:
        raise DatasetError(f"{path} cannot be read: {e.strerror or e}") from e


def read_json(path: Path) -> Any:
    """The content of a json file. DatasetError names line, column and text of a syntax error."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        if kind := describe_bytes(text[:_TAIL_BYTES].encode(errors="replace")):
            raise DatasetError(f"{path} is not json: it looks like {kind}") from e
        line = e.doc.split("\n")[e.lineno - 1]
        shown = clip(line[max(0, e.colno - 40) if len(line) >= _MAX_SHOWN else 0 :].strip())
        raise DatasetError(
            f"{path} is not valid json: line {e.lineno}, column {e.colno}: {e.msg}: {shown!r}. "
            "Correct that line, or export the annotations again"
        ) from e
    except (RecursionError, ValueError) as e:  # nested too deep; a number of over 4,300 digits
        raise DatasetError(f"{path} is not a usable json file: {e}") from e


def clip(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def need(record: Any, key: str, kind: type, source: str, place: str) -> Any:
    """``record[key]``, which has to be of type ``kind``; an error that names the place otherwise.

    Whole numbers may be written 640.0; a truth value is no number.
    """
    if not isinstance(record, dict):
        raise wrong_type(record, dict, source, place)
    if key not in record:
        raise DatasetError(f"{source}: {place} has no {key!r}; expected {_KINDS[kind]}")
    value = record[key]
    if type(value) is kind:
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    raise wrong_type(value, kind, source, f"{place}.{key}" if place else key)


def stated_size(
    record: dict[str, Any], keys: tuple[str, str], source: str, place: str
) -> tuple[int, int] | None:
    """Height and width of an image in pixels, named so, where the file states both, and not 0. They
    may be written as text."""
    read = {key: record.get(key) for key in keys}
    read |= {key: number(v) for key, v in read.items() if not math.isnan(number(v))}
    if any(value is None or value == 0 for value in read.values()):
        return None
    return need(read, keys[0], int, source, place), need(read, keys[1], int, source, place)


def wrong_type(value: Any, kind: type, source: str, place: str) -> DatasetError:
    return DatasetError(f"{source}: {place} is {clip(repr(value))}; expected {_KINDS[kind]}")


def wrong_kind(data: Any, source: str, expected: str) -> DatasetError:
    """The error for a json file of another kind than the loader reads."""
    return DatasetError(f"{source} is not {expected}: it looks like {describe(data)}")


def number(value: Any) -> float:
    """A number, also one written as text, as a float; NaN, which cleaning counts, for others."""
    with suppress(ValueError):
        value = float(value) if type(value) is str else value
    # Python compares a whole number with a float exactly, however large.
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else math.nan


IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
)
EXIF_ORIENTATION = 0x0112
_HEAD_BYTES, _TAIL_BYTES = 132, 64 * 1024
_LONGEST_LINK = 1_000  # bytes
_LATE_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
THREADS = 8
MOST_FILES = 1_000_000  # below a folder: more are no dataset, but somebody's whole disk
_AT_ONCE = 16  # at most: handing each file to a thread alone takes as long as looking at it
# What files begin with that Pillow does not open, and what turns them into images.
_FORMATS = {
    rb".{128}DICM": "DICOM; save one window of values for all, as 8 bit (pydicom)",
    rb"\x93NUMPY": "a NumPy array; PIL.Image.fromarray(np.load(FILE)).save(...), as 8 bit",
    rb".{4}ftyp(hei|hev|mif1|msf1)": "HEIC, of phones; heif-convert, or magick a.heic a.jpg",
    rb".{4}ftypavif": "AVIF; magick a.avif a.png, or a newer Pillow",
    rb".{4}ftyp": "a video; take its frames (ffmpeg)",
    rb"(\xff\x0a|\0{3}\x0cJXL )": "JPEG XL; djxl a.jxl a.png",
    rb"\x89HDF": "HDF5; save its arrays as images of 8 bit",
    rb"%PDF|\s*<svg": "a drawing, not pixels; save it as PNG",
    rb"version https://git-lfs": "a pointer of Git LFS; git lfs pull",
}


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``function`` of each item, such as files, which networks take their time for; in order."""
    size = min(_AT_ONCE, 1 + len(items) // THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [items[k : k + size] for k in range(0, len(items), size)]
        return [*chain.from_iterable(pool.map(lambda part: [*map(function, part)], parts))]


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that puts "cat2" before "cat10"."""
    parts = enumerate(re.split(r"([0-9]+)", text))  # numbers by length, then by digits
    return [(len(p.lstrip("0")), p.lstrip("0")) if k % 2 else (0, p) for k, p in parts]


def is_hidden(name: str) -> bool:
    """Of a file or folder: by a dot, as the ._ files of macOS, or what they lie in within a zip."""
    return name.startswith(".") or name == "__MACOSX"


def walk(folder: str | Path, seen: set[tuple[int, int]] | None = None) -> Iterator[str]:
    """The paths of all files below ``folder`` but hidden ones.

    Links to folders are followed, each folder is entered once; those in ``seen`` are not.
    """
    seen = set() if seen is None else seen
    for top, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(top)
        if (place := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(place)
        # a folder by its own name rather than by that of a link to it
        folders[:] = sorted(
            (name for name in folders if not is_hidden(name)),
            key=lambda name: (os.path.islink(f"{top}/{name}"), name),
        )
        for path in (os.path.join(top, name) for name in sorted(names) if not is_hidden(name)):
            linked = _linked_folder(path)
            yield from walk(linked, seen) if linked else (path,)


def _linked_folder(path: str) -> str:
    """The folder that a link leads to where git wrote the link as a text (Windows); else ""."""
    try:
        if os.path.splitext(path)[1] or os.path.getsize(path) > _LONGEST_LINK:
            return ""
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):  # ValueError: no text
        return ""
    folder = os.path.join(os.path.dirname(path), text)  # ".." stays: it begins with what is walked
    return folder if "/" in text and os.path.isdir(folder) else ""


def list_files(folder: Path, suffixes: Container[str], *, recursive: bool = False) -> list[Path]:
    """The files in ``folder`` with one of ``suffixes``, in small letters; in natural order.

    Hidden ones are left out; ``recursive`` as :func:`walk`. None where there is no such folder.
    """
    if not folder.is_dir():
        return []
    found = map(Path, walk(folder)) if recursive else folder.iterdir()
    files = [p for p in found if p.suffix.lower() in suffixes and not is_hidden(p.name)]
    return sorted(
        filter(Path.is_file, files), key=lambda p: natural_key(Path(os.path.normpath(p)).as_posix())
    )


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The image files in ``folder``, by suffix, in natural order of their names."""
    return list_files(folder, IMAGE_SUFFIXES, recursive=recursive)


@dataclass(frozen=True)
class ImageProbe:
    """What the header of an image file says. Sizes are (height, width) in pixels.

    ``size`` is what a viewer, and detectron2's ``read_image``, shows: EXIF orientation applied.
    ``stored_size`` is the size before that. ``problem`` is why it cannot be used, or None, and
    ``note`` what was seen.
    """

    size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    problem: Reason | None = None
    note: str = ""


def probe_images(paths: Sequence[str]) -> list[ImageProbe]:
    """:func:`probe_image` of every path, in threads; the order is kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on odd but readable metadata
        return in_threads(probe_image, paths)


def probe_image(path: str) -> ImageProbe:
    """Size and readability of one image file, without decoding it where that can be avoided.

    A PNG's checksums are verified. A JPEG whose end shows that it is complete is not decoded; one
    that seems cut short, and every other format, is.
    """
    if not os.path.isfile(path):
        return ImageProbe(problem=Reason.IMAGE_MISSING)
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read()
            file.seek(0)
            return _probe(file, tail)
    except UnidentifiedImageError:
        return _unidentified(path, head)
    except Image.DecompressionBombError:
        return ImageProbe(problem=Reason.IMAGE_TOO_LARGE)
    except Exception as error:  # PIL's decoders raise nearly every type of it on damaged files
        if isinstance(error, OSError) and error.errno:  # of the system: no right to read it, ...
            return ImageProbe(problem=Reason.IMAGE_UNREADABLE, note=error.strerror or "")
        return ImageProbe(problem=Reason.IMAGE_TRUNCATED)


def _unidentified(path: str, head: bytes) -> ImageProbe:
    """Why Pillow knows no image in a file that begins with ``head``."""
    if not head:
        return ImageProbe(problem=Reason.IMAGE_EMPTY)
    kind = next((kind for begins, kind in _FORMATS.items() if re.match(begins, head, re.S)), "")
    if kind:
        return ImageProbe(problem=Reason.IMAGE_FORMAT, note=kind)
    if head[:4] in (b"II*\0", b"MM\0*"):
        with suppress(Exception), open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits = max(tags[TiffImagePlugin.BITSPERSAMPLE])
            bands = f"{tags[TiffImagePlugin.SAMPLESPERPIXEL]} bands of {bits} bits"
            return ImageProbe(problem=Reason.IMAGE_BANDS, note=bands)
    begins = head[:40].decode("ascii", "replace").split("\n")[0]
    return ImageProbe(problem=Reason.IMAGE_NO_IMAGE, note=f"begins with {begins!r}")


def _probe(file: BinaryIO, tail: bytes) -> ImageProbe:
    with Image.open(file) as image:
        width, height = image.size
        orientation = _orientation(image, tail)
        if image.format == "TIFF" and orientation in range(2, 9):
            # Pillow turns a TIFF when it decodes it, detectron2's read_image once more.
            return ImageProbe(problem=Reason.IMAGE_TURNED_TIFF)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return ImageProbe(problem=Reason.IMAGE_DEEP)
        if image.format == "PNG":
            # Every chunk's checksum: detectron2's read_image looks for EXIF data first, swallows
            # the error of a broken picture there, and trains on the half that was decoded.
            file.seek(0)
            with Image.open(file) as again:
                again.verify()
        # The last end-of-image marker of a JPEG must come after the last start of scan: a thumbnail
        # inside the header has such a marker too.
        elif image.format not in ("JPEG", "MPO") or (
            tail.rfind(b"\xff\xd9") <= tail.rfind(b"\xff\xda")
        ):
            image.load()
    shown = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    return ImageProbe(size=shown, stored_size=(height, width))


def _orientation(image: Image.Image, tail: bytes) -> int | None:
    """The EXIF orientation as detectron2's ``read_image`` sees it, 1 to 8."""
    # PngImageFile.getexif decodes the whole image to find metadata behind the pixels.
    is_early = image.format == "PNG" and not any(marker in tail for marker in _LATE_EXIF)
    try:
        exif = Image.Image.getexif(image) if is_early else image.getexif()
    except Exception:  # detectron2 ignores broken EXIF data in the same way
        return None
    value = exif.get(EXIF_ORIENTATION)
    return value if isinstance(value, int) else None


def check_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """``classes`` as a tuple; an error unless it is None or distinct, non-empty names."""
    if classes is None:
        return None
    if (
        not isinstance(classes, Sequence)
        or isinstance(classes, str)
        or not (classes and all(isinstance(n, str) and n.strip() for n in classes))
    ):
        raise DatasetError(
            f"classes is {clip(repr(classes))}; expected a list of names, at least one name, "
            'each a text: in quotes where YAML would read a number or a truth value ("1", "no")'
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DatasetError(
            f"classes names {', '.join(map(repr, twice))} more than once; name each once"
        )
    return tuple(classes)


def check_labels(
    labels: Counter[str],
    classes: Sequence[str],
    class_of: Mapping[str, str],
    source: str,
) -> None:
    """Raises DatasetError, with counts, where ``classes`` lacks any label, or its class."""
    unknown = {label: n for label, n in labels.items() if class_of.get(label, label) not in classes}
    if unknown:
        raise DatasetError(
            f"{source}: labels that are not among the classes {list(classes)!r}: "
            f"{list_counts(unknown, classes)}. Add them to classes, make them part of "
            "one with merge, or correct them in the annotations"
        )


def list_counts(counts: dict[str, int], known: Sequence[str] = ()) -> str:
    """'cat' (12 instances; did you mean 'cats'?), ...: the first 20, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{k!r} ({plural(n, 'instance')}{nearest(k, known)})" for k, n in ordered]
    return few(texts, 20)
