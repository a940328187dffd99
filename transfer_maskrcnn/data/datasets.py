"""Datasets: what each is made of, and its dicts, parsed or from the cache.

A dataset comes from the cache only where parsing would give the same: its key is a digest of all
that the result depends on but the images, and the entry holds one of the state of every image file.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np
import PIL
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from transfer_maskrcnn import __version__
from transfer_maskrcnn.cli import typed_script
from transfer_maskrcnn.data import formats
from transfer_maskrcnn.data.cache import Entry, digest_of, user_cache
from transfer_maskrcnn.data.formats.base import (
    COUNTERS,
    LoadedDataset,
    LoadReport,
    Place,
    Reason,
    UnusableDataset,
)
from transfer_maskrcnn.data.split import PARTS, Split, names_of, val_images
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import file_digest
from transfer_maskrcnn.text import few, plural

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Labels = Sequence[Sequence[int]]  # of each image, the category_id of each instance but crowds

_FORMATS = ("coco", "via")  # one file of annotations; the others have thousands
_MIN_ITEMS = 1_000  # images and instances; fewer are parsed in about a tenth of a second
_SLOW_SECONDS = 1.0  # whoever waited longer than this is told that it was the last time
_YOUNG_NS = 2_000_000_000


@dataclass(frozen=True)
class DatasetSpec:
    """All that makes a dataset; two registrations under a name are the same if these are equal."""

    name: str
    format: str
    annotations: str
    image_root: str | None = None
    classes: tuple[str, ...] | None = None
    hold_out_every: int | None = None
    part: str | None = None
    prepare: str | None = None  # the command that gets it, for the error where it is missing
    options: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, tuple[str, ...]] = field(default_factory=dict)
    split: Split | None = None


def parse(spec: DatasetSpec) -> LoadedDataset:
    """The dataset from its files, not from the cache: with ``places``.

    Raises:
        DatasetError: what the format's loader raises.
    """
    return _part_of(spec, _parse_whole)


def load(spec: DatasetSpec) -> LoadedDataset:
    """The dataset, from the cache or parsed; a large one that is parsed goes there.

    What comes from the cache equals what parsing gives. ``dicts`` are :class:`Records` wherever the
    dataset is in the cache now, even if it was parsed; else a list.

    Raises:
        DatasetError: what the format's loader raises.
    """
    return _part_of(spec, _load_whole)


def labels_of(dicts: Sequence[Record]) -> list[list[int]]:
    """The labels of dicts that are no whole dataset of ours, which knows its own."""
    return [
        [a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        for record in dicts
    ]


_other_part: dict[str, LoadedDataset] = {}  # of the last one read, for whoever reads it next


def _part_of(spec: DatasetSpec, read: Callable[[DatasetSpec], LoadedDataset]) -> LoadedDataset:
    """The ``part`` of ``spec``, where it has one, with its own report."""
    if spec.part is None:
        return _whole(spec, read)
    keys = {part: f"{read.__name__} {replace(spec, name='', part=part)!r}" for part in PARTS}
    if keys[spec.part] not in _other_part:
        _other_part.clear()
        loaded = _whole(spec, read)
        val = _drawn(spec, spec.split, loaded) if spec.split else _each_nth(spec, loaded.files)
        _other_part.update({keys[part]: _taken(loaded, val, part) for part in PARTS})
    own = _other_part.pop(keys[spec.part])
    if not own.dicts:
        lost = own.report.reasons(own.report.images_left_out)
        raise UnusableDataset(
            f"part {spec.part!r} of {len(own.files)} images with hold_out_every "
            f"{spec.hold_out_every} is empty"
            + (f": {lost}" if lost else "; use a smaller hold_out_every"),
            own.report,
        )
    return own


def _whole(spec: DatasetSpec, read: Callable[[DatasetSpec], LoadedDataset]) -> LoadedDataset:
    try:
        return read(spec)
    except DatasetError as error:
        if isinstance(error, UnusableDataset) and spec.part is not None:
            val = _each_nth(spec, error.files) if spec.split is None else set()  # none to draw
            error.report = error.report.part(_owner(val, spec.part))
        if spec.prepare is None or os.path.exists(spec.annotations):
            raise
        raise DatasetError(f"{error}. To get this dataset: {typed_script(spec.prepare)}") from None


def _taken(loaded: LoadedDataset, val: Set[str], part: str) -> LoadedDataset:
    """One part, by its image files; ``val`` are those to validate on."""
    owns = _owner(val, part)
    at = [i for i, position in enumerate(loaded.positions) if owns(loaded.files[position])]
    dicts, instances = loaded.dicts, tuple(loaded.instances[i] for i in at)
    labels = tuple(loaded.labels[i] for i in at)
    report = loaded.report.part(owns, len(at), sum(instances))
    report.crowds = report.instances_kept - sum(map(len, labels))
    return replace(
        loaded,
        dicts=dicts.take(at) if isinstance(dicts, Records) else [dicts[i] for i in at],
        report=report,
        positions=tuple(loaded.positions[i] for i in at),
        instances=instances,
        labels=labels,
        places=[loaded.places[i] for i in at] if loaded.places else (),
    )


def _owner(val: Set[str], part: str | None) -> Callable[[str], bool]:
    """Whether something belongs to ``part``, by its image.

    What is of no image, or of one that the annotations do not list, is of the part "train".
    """
    return lambda image: (image in val) == (part == "val")


def _each_nth(spec: DatasetSpec, files: Sequence[str]) -> set[str]:
    """The image files to validate on; one that is listed twice counts as the first."""
    first = {file: k for k, file in reversed([*enumerate(files)])}
    return {file for file, k in first.items() if k % (spec.hold_out_every or 1) == 0}


def _drawn(spec: DatasetSpec, split: Split, loaded: LoadedDataset) -> set[str]:
    """The image files to validate on; the log says what is on which side."""
    files = [loaded.files[position] for position in loaded.positions]
    groups = _alike(files)
    val = val_images(names_of(files, _root(spec)), loaded.labels, groups, split)
    sides = []
    for part in PARTS:
        own = [i for i in range(len(files)) if (i in val) == (part == "val")]
        counts = Counter(label for i in own for label in loaded.labels[i])
        told = [f"{name} {counts[k]}" for k, name in enumerate(loaded.classes)]
        sides.append(f"{part} {plural(len(own), 'image')} ({few(told, 20)})")
    sizes = [count for count in Counter(groups).values() if count > 1]
    several = f"{plural(len(sizes), 'group')} that look alike ({plural(sum(sizes), 'image')})"
    alike = f"{several}, each on one side" if sizes else "no two look alike"
    all_alike = sizes == [len(files)]
    if all_alike:
        alike = "all look alike, so AP says little: better validate on other images"
    logger.log(
        logging.WARNING if all_alike else logging.INFO,
        "dataset %s: split at random by val %s, seed %d: %s; %s",
        *(spec.name, split.val, split.seed, ", ".join(sides), alike),
    )
    return {files[i] for i in val}


def _root(spec: DatasetSpec) -> str:
    """The folder that images are named from: the dataset's, wherever that lies."""
    beside = (
        spec.annotations if os.path.isdir(spec.annotations) else os.path.dirname(spec.annotations)
    )
    return spec.image_root or beside


def _alike(files: Sequence[str]) -> list[int]:
    """``near_duplicates.groups``, from the cache where no image changed."""
    # which a dataset that is whole does not need
    from transfer_maskrcnn.data import near_duplicates

    cache, now = user_cache("near_duplicates"), time.time_ns()
    state = _state_of(files)
    code = file_digest(near_duplicates.__file__)
    key = digest_of([code, PIL.__version__, list(map(os.path.abspath, files)), state.digest])
    entry = cache.get(key)
    if entry is not None:
        return list(entry.value)
    groups = near_duplicates.groups(files)
    if state.newest < now - _YOUNG_NS:
        cache.put(key, value=groups)
    return groups


def _parse_whole(spec: DatasetSpec) -> LoadedDataset:
    # Python's garbage collector looks at all of millions of new objects again and again, and finds
    # nothing: it takes two fifths of the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        return formats.FORMATS[spec.format](
            *(spec.annotations, spec.image_root),
            classes=spec.classes,
            merge=spec.merge,
            **spec.options,
        )
    finally:
        if enabled:
            gc.enable()


def _load_whole(spec: DatasetSpec) -> LoadedDataset:
    cache = user_cache("datasets")
    key = None if cache.folder is None or spec.format not in _FORMATS else cache_key(spec)
    if key is None:
        return _parse_whole(spec)
    cached = _from_entry(cache.get(key))
    if cached is not None:
        return cached
    start = time.time_ns()
    loaded = _parse_whole(spec)
    seconds = (time.time_ns() - start) / 1e9
    if loaded.report.images_read + loaded.report.instances_read < _MIN_ITEMS:
        return loaded
    images = _state_of(loaded.files)
    if _changed_since(start, images, loaded.report) or cache_key(spec) != key:
        logger.debug("dataset %s: not cached: its files are being changed", spec.name)
        return loaded
    texts = [_encode(record) for record in loaded.dicts]
    tensors = {
        "texts": np.frombuffer(bytearray(b"".join(texts)), dtype=np.uint8),
        "starts": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    }
    content = {**vars(loaded), "report": vars(loaded.report), "images": images.digest}
    del content["dicts"], content["places"]
    if not cache.put(key, tensors, content):
        return loaded
    level = logging.INFO if seconds > _SLOW_SECONDS else logging.DEBUG
    logger.log(level, "dataset %s: cached for next time in %s", spec.name, cache.path(key))
    return _from_entry(cache.get(key)) or loaded


def cache_key(spec: DatasetSpec) -> str | None:
    """A digest of all that the whole dataset depends on but the images. None where the annotations
    cannot be read; the format's loader has the words for it."""
    try:
        annotations = file_digest(spec.annotations)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    content = [
        *(__version__, _code_digest(), PIL.__version__, annotations),
        {mode.name: int(mode) for mode in BoxMode},
        os.geteuid(),  # what one user may not read is left out
        # file_name begins with a path as given; what lies there, the absolute path says.
        *(spec.format, spec.image_root, os.path.abspath(spec.image_root or "")),
        *(spec.annotations, os.path.abspath(spec.annotations)),
        *(spec.classes, spec.options, list(spec.merge.items())),
    ]
    return digest_of(content)


@cache
def _code_digest() -> str:
    """Of the loaders: their results may change while the version stays, between two releases."""
    files = [Path(__file__), *sorted(Path(formats.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _from_entry(entry: Entry | None) -> LoadedDataset | None:
    """None where there is no entry, or an image changed since it was written."""
    if entry is None or entry.value["images"] != _state_of(entry.value["files"]).digest:
        return None
    content, counts = entry.value, dict(entry.value["report"])
    for name in COUNTERS:
        counts[name] = Counter({Reason(code): n for code, n in counts[name].items()})
    counts["places"] = {
        Reason(code): [Place(*p) for p in places] for code, places in counts["places"].items()
    }
    counts["in_images"] = {Reason(c): Counter(n) for c, n in counts["in_images"].items()}
    names = [content["files"][position] for position in content["positions"]]
    texts, starts = (entry.tensors[name].numpy() for name in ("texts", "starts"))
    return LoadedDataset(
        dicts=Records(texts, starts, names, np.arange(len(names))),
        classes=tuple(content["classes"]),
        category_ids=tuple(content["category_ids"]),
        mask_format=content["mask_format"],
        report=LoadReport(**counts),
        positions=tuple(content["positions"]),
        instances=tuple(content["instances"]),
        labels=tuple(map(tuple, content["labels"])),
        files=tuple(content["files"]),
    )


class Records(Sequence[Record]):
    """The dicts of a cached dataset, each decoded anew whenever it is asked for.

    It can do what a list can that nobody changes: index, slice, iterate, compare, add. A slice is a
    view; a sum is a list. Processes that are forked share its memory, a memory map of the file.
    """

    def __init__(
        self,
        texts: NDArray[np.uint8],
        starts: NDArray[np.int64],
        names: Sequence[str],
        chosen: NDArray[np.int64],
    ):
        """
        Args:
            texts: what ``_encode`` made of each dict, one behind the other.
            starts: where each begins, and the last one ends.
            names: the ``file_name`` of each.
            chosen: the numbers of those that are in this sequence, in its order.
        """
        self._all = (texts, starts, names)
        self._chosen = chosen

    def take(self, indices: Sequence[int]) -> Records:
        """A view of the dicts at ``indices``, in that order."""
        return Records(*self._all, self._chosen[np.asarray(indices, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """A dict, or a view of a slice."""
        if isinstance(index, slice):
            return Records(*self._all, self._chosen[index])
        name, text = self.text(index)
        record: Record = {"file_name": name, **json.loads(text)}
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode(annotation["bbox_mode"])
        return record

    def text(self, index: int) -> tuple[str, bytes]:
        """The file name of a dict, and the rest of it as JSON."""
        texts, starts, names = self._all
        number = int(self._chosen[operator.index(index)])
        return names[number], texts[starts[number] : starts[number + 1]].tobytes()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Records, list)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __add__(self, other: Sequence[Record]) -> list[Record]:
        return [*self, *other]

    def __radd__(self, other: Sequence[Record]) -> list[Record]:
        return [*other, *self]


def _encode(record: Record) -> bytes:
    """A dict without its ``file_name`` as JSON."""
    rest = {key: value for key, value in record.items() if key != "file_name"}
    return json.dumps(rest, separators=(",", ":"), default=str).encode("ascii")


def fingerprint(dicts: Sequence[Record]) -> str:
    """A hash of the images' names and sizes and all annotations, wherever the files lie."""
    digest = hashlib.sha256()
    for i in range(len(dicts)):
        if isinstance(dicts, Records):
            name, text = dicts.text(i)
        else:
            name, text = dicts[i]["file_name"], _encode(dicts[i])
        digest.update(os.path.basename(name).encode(errors="surrogatepass") + b"\n" + text + b"\n")
    return digest.hexdigest()[:16]


class _ImageState(NamedTuple):
    digest: str  # of size, times and mode of every file
    newest: int  # when one last changed, in ns since 1970
    missing: int  # files that are not there


def _state_of(files: Sequence[str]) -> _ImageState:
    newest = missing = 0
    states: list[tuple[int, ...]] = []
    for name in files:
        state: tuple[int, ...] = ()
        with suppress(OSError, ValueError):  # ValueError: a name that no file can have
            status = os.stat(name)
            # ctime: some tools change an image and set its old mtime again
            times = (status.st_mtime_ns, status.st_ctime_ns)
            if S_ISREG(status.st_mode):
                state = (status.st_size, *times, status.st_mode)
                newest = max(newest, *times)
        if not state:
            missing += 1
            with suppress(OSError, ValueError):  # what comes into the folder may be the image
                state = (os.stat(os.path.dirname(name)).st_mtime_ns,)
        states.append(state)
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
