"""Parsed datasets on disk, so that the next start need not parse the annotations again.

A dataset comes from the cache only where parsing would give the same: the file is named after all
that the result depends on but the images, and holds a digest of the state of every image file.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import PIL
from detectron2.structures import BoxMode

from transfer_maskrcnn import __version__
from transfer_maskrcnn.data import formats
from transfer_maskrcnn.data.cache_folder import SUFFIX, cache_folder, make_room, mark_used
from transfer_maskrcnn.data.formats.base import LoadedDataset, LoadReport, Place, Reason
from transfer_maskrcnn.data.formats.merge import Merge, labels_of, merge_classes
from transfer_maskrcnn.data.record_file import LAYOUT, Record, RecordFile, write_records

logger = logging.getLogger(__name__)

_FORMATS = ("coco", "via")  # one file of annotations; the others have thousands
_MIN_ITEMS = 1_000  # images and instances; fewer are parsed in about a tenth of a second
_SLOW_SECONDS = 1.0  # whoever waited longer than this is told that it was the last time
_YOUNG_NS = 2_000_000_000
_THREADS = 4
_PIECE_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class DatasetSource:
    """What a dataset is parsed from: the arguments of its format's loader, and what is merged."""

    format: str
    annotations: str
    image_root: str | None
    arguments: dict[str, Any]  # classes and options
    merge: Merge = field(default_factory=dict)

    def parse(self) -> LoadedDataset:
        """Raises DatasetError: what the format's loader, or merging, raises."""
        arguments, classes = dict(self.arguments), self.arguments.get("classes")
        if self.merge and classes is not None:
            by_position = self.format == "png_masks"
            arguments["classes"] = labels_of(classes, self.merge, by_position=by_position)
        with _without_collector():
            loaded = formats.FORMATS[self.format](self.annotations, self.image_root, **arguments)
            return merge_classes(loaded, self.merge, classes)

    def dicts(self) -> Sequence[Record]:
        return self.parse().dicts

    def key(self) -> str | None:
        """A digest of all that the result depends on but the images. None where the annotations
        cannot be read; the loader has the words for it."""
        if not os.path.isfile(self.annotations):
            return None
        try:
            annotations = _file_digest(self.annotations)
        except OSError:
            return None
        content = [
            *(LAYOUT, __version__, _code_digest(), PIL.__version__),
            {mode.name: int(mode) for mode in BoxMode},
            os.geteuid(),  # what one user may not read is left out
            self.format,
            # file_name begins with the path as given; what lies there, the absolute path says.
            *(self.image_root, os.path.abspath(self.image_root or "")),
            self.arguments,
            list(self.merge.items()),
            annotations,
        ]
        text = json.dumps(content, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's garbage collector looks at all of millions of new objects again and again, and
    finds nothing: it takes two fifths of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_dataset(name: str, source: DatasetSource) -> LoadedDataset:
    """The dataset of ``source``, from the cache or parsed; a large one that is parsed goes there.

    What comes from the cache equals what parsing gives. ``dicts`` is a :class:`RecordFile` wherever
    the dataset is in the cache now, even if it was parsed; else a list. ``name`` is for the log.

    Raises:
        DatasetError: what the format's loader raises.
    """
    folder = cache_folder() if source.format in _FORMATS else None
    key = None if folder is None else source.key()
    if folder is None or key is None:
        return source.parse()
    path = folder / (key + SUFFIX)
    cached = _read(path, source)
    if cached is None:
        return _parse_and_write(name, path, source)
    mark_used(path)
    return cached


def _parse_and_write(name: str, path: Path, source: DatasetSource) -> LoadedDataset:
    start = time.time_ns()
    loaded = source.parse()
    seconds = (time.time_ns() - start) / 1e9
    if loaded.report.images_read + loaded.report.instances_read < _MIN_ITEMS:
        return loaded
    images = _state_of(loaded.files)
    if _changed_since(start, images, loaded.report) or source.key() != path.stem:
        logger.debug("dataset %s: not cached for next time: its files are being changed", name)
        return loaded
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, _header(loaded, path, images), loaded.dicts)
        megabytes = path.stat().st_size / 1e6
        make_room(path.parent)
    except OSError as error:
        logger.info("dataset %s: not cached for next time: %s", name, error)
        return loaded
    cached = _read(path, source)
    if cached is None:  # it alone is larger than the cache may be, or somebody removed it
        return loaded
    level = logging.INFO if seconds > _SLOW_SECONDS else logging.DEBUG
    logger.log(level, "dataset %s: cached for next time in %s (%.0f MB)", name, path, megabytes)
    return cached


def _header(loaded: LoadedDataset, path: Path, images: _ImageState) -> dict[str, Any]:
    content = {**vars(loaded), "report": vars(loaded.report)}
    del content["dicts"], content["places"]
    return {"key": path.stem, "images": images.digest, "content": content}


def _read(path: Path, source: DatasetSource) -> LoadedDataset | None:
    """None where there is no such file, it cannot be used, or an image changed since."""
    try:
        records = RecordFile(path, source.dicts)
        header = records.header
        loaded = _from_header(header["content"], records)
        if (header["key"], header["images"]) == (path.stem, _state_of(loaded.files).digest):
            return loaded
    except FileNotFoundError:
        pass
    except Exception as error:  # a file that was made to do harm can lead to anything
        logger.debug("%s cannot be used: %s", path, error)
    return None


def _from_header(content: dict[str, Any], dicts: RecordFile) -> LoadedDataset:
    report = LoadReport(**content["report"])
    for name in ("left_out", "images_left_out", "repaired"):
        counts = {Reason(code): count for code, count in getattr(report, name).items()}
        setattr(report, name, Counter(counts))
    report.places = {
        Reason(code): [Place(*place) for place in places] for code, places in report.places.items()
    }
    return LoadedDataset(
        dicts=dicts,
        classes=tuple(content["classes"]),
        category_ids=tuple(content["category_ids"]),
        mask_format=content["mask_format"],
        report=report,
        positions=tuple(content["positions"]),
        instances=tuple(content["instances"]),
        files=tuple(content["files"]),
    )


class _ImageState(NamedTuple):
    digest: str  # of size, times and mode of every file
    newest: int  # when one last changed, in ns since 1970
    missing: int  # files that are not there


def _state_of(files: Sequence[str]) -> _ImageState:
    newest = missing = 0
    states: list[tuple[int, ...]] = []
    for name in files:
        try:
            status = os.stat(name)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            status = None
        if status is None or not S_ISREG(status.st_mode):
            missing += 1
            states.append(())
        else:
            # ctime: some tools change an image and set its old mtime again
            times = (status.st_mtime_ns, status.st_ctime_ns)
            states.append((status.st_size, *times, status.st_mode))
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return _ImageState(hashlib.sha256(repr(states).encode()).hexdigest(), newest, missing)


def _changed_since(start: int, images: _ImageState, report: LoadReport) -> bool:
    """Whether an image may not be what was parsed from ``start`` (in ns since 1970) on.

    One that changed while it was parsed may be recorded as it is now but known as it was before.
    One that changes again within a tick of its file system's clock, up to two seconds, keeps its
    time. Both are young; by ctime at least, which copying a file with its old date does not set.
    So a dataset with a young image is not cached: the next parse will find the image older.
    """
    removed = images.missing != report.images_left_out[Reason.IMAGE_MISSING]
    return removed or images.newest > start - _YOUNG_NS


def _file_digest(path: str) -> str:
    """Of the SHA-256 digests of a file's pieces: threads can compute them at the same time."""
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(_THREADS) as pool:
        size = os.fstat(file.fileno()).st_size
        digests = pool.map(partial(_piece_digest, file.fileno()), range(0, size, _PIECE_BYTES))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _piece_digest(file: int, start: int) -> bytes:
    digest = hashlib.sha256()
    for offset in range(start, start + _PIECE_BYTES, _BLOCK_BYTES):
        digest.update(os.pread(file, _BLOCK_BYTES, offset))
    return digest.digest()


@cache
def _code_digest() -> str:
    """Of the loaders: their results may change while the version stays, between two releases."""
    files = sorted(Path(formats.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
