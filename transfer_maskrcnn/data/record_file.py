"""A list of dicts in one file: written once, then read through a memory map, dict by dict."""

from __future__ import annotations

import copy
import io
import json
import logging
import mmap
import operator
import pickle
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import atomic_path

logger = logging.getLogger(__name__)

Record = dict[str, Any]

LAYOUT = 1
# MAGIC, lengths of the header and of the list, the header, where each record starts and the last
# one ends (counted from the first), the records' checksums, the checksum of all that, the records.
# Each record has its own checksum, so that opening need not read them all from the disk.
_MAGIC = b"TMRCNN\0" + bytes([LAYOUT])
_LENGTHS = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<q")
_HEADER_START = len(_MAGIC) + _LENGTHS.size
_BOX_MODE = (BoxMode.__module__, BoxMode.__qualname__)


def write_records(path: Path, header: dict[str, Any], records: Iterable[Record]) -> None:
    """Write a file for :class:`RecordFile`, whole or not at all.

    Args:
        path: the file; its folder exists.
        header: anything that JSON can hold.
        records: dicts of dicts, lists, numbers, texts, bytes and BoxMode.

    Raises:
        OSError: the file cannot be written.
    """
    blobs = [_encode(record) for record in records]
    text = json.dumps(header).encode("ascii")
    index = _MAGIC + _LENGTHS.pack(len(text), len(blobs)) + text
    index += np.cumsum([0, *map(len, blobs)], dtype="<i8").tobytes()
    index += np.array([zlib.crc32(blob) for blob in blobs], dtype="<i8").tobytes()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines([index, _CHECKSUM.pack(zlib.crc32(index)), *blobs])


class RecordFile(Sequence[Record]):
    """The dicts of a record file, each decoded anew whenever it is asked for.

    It can do what a list can that nobody changes: index, slice, iterate, compare, add. A slice is a
    view; a sum is a list. Processes that map one file share its memory; to another process it goes
    as a path.

    Where the file later turns out to be unusable (a record is damaged or no data, or the file is
    gone when a worker process opens it), the dicts come from ``parse`` from then on.
    """

    def __init__(self, path: Path, parse: Callable[[], Sequence[Record]]):
        """
        Args:
            path: a file of :func:`write_records`.
            parse: makes the same dicts from their source. A worker process needs it picklable.

        Raises:
            OSError, ValueError: the file is missing, cut short, of another kind, or damaged
                elsewhere than in a record.
        """
        self._source = _Source(path, parse)
        self._chosen: NDArray[np.int64] = np.arange(self._source.count)

    @property
    def header(self) -> Any:
        """What :func:`write_records` was given as ``header``."""
        return self._source.header()

    def take(self, indices: Sequence[int]) -> RecordFile:
        """A view of the dicts at ``indices``, in that order."""
        return self._view(self._chosen[np.asarray(indices, dtype=np.int64)])

    def _view(self, chosen: NDArray[np.int64]) -> RecordFile:
        view = copy.copy(self)
        view._chosen = chosen
        return view

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> RecordFile: ...
    def __getitem__(self, index: int | slice) -> Record | RecordFile:
        if isinstance(index, slice):
            return self._view(self._chosen[index])
        return self._source.record(int(self._chosen[operator.index(index)]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (RecordFile, list)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # equal to a list, which has none

    def __add__(self, other: Sequence[Record]) -> list[Record]:
        return [*self, *other]

    def __radd__(self, other: Sequence[Record]) -> list[Record]:
        return [*other, *self]


class _Source:
    """Records by number: from the file as long as it can be used, else parsed."""

    def __init__(self, path: Path, parse: Callable[[], Sequence[Record]]):
        self._path = path
        self._parse = parse
        self._parsed: Sequence[Record] | None = None
        self._mapped: _MappedFile | None = _MappedFile(path)
        self._checksum = self._mapped.checksum
        self.count = len(self._mapped.starts) - 1

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": None, "_parsed": None}

    def header(self) -> Any:
        return self._open().header

    def record(self, index: int) -> Record:
        if self._parsed is None:
            try:
                return self._open().record(index)
            except (OSError, ValueError, pickle.UnpicklingError) as error:
                self._parsed = self._parse_instead_of(error)
        return copy.deepcopy(self._parsed[index])

    def _open(self) -> _MappedFile:
        if self._mapped is None:
            mapped = _MappedFile(self._path)
            if mapped.checksum != self._checksum:
                raise ValueError("another process has written it anew")
            self._mapped = mapped
        return self._mapped

    def _parse_instead_of(self, error: Exception) -> Sequence[Record]:
        logger.warning("%s: %s; reading the annotations instead", self._path, error)
        if isinstance(error, pickle.UnpicklingError):
            with suppress(OSError):
                self._path.unlink()  # the next start would open it again
        parsed = self._parse()
        if len(parsed) != self.count:
            raise DatasetError(
                f"{self._path} held {self.count} images, and the annotations now give "
                f"{len(parsed)}: files of the dataset changed while it was in use. Start again"
            )
        return parsed


class _MappedFile:
    """One open record file, whose header is as it was written."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._read_index()
        except Exception as error:  # lengths that were made to do harm can raise anything
            raise ValueError(f"it is damaged or no record file: {error}") from error

    def _read_index(self) -> None:
        content = self._bytes
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError("it begins in another way")
        header_bytes, count = _LENGTHS.unpack_from(content, len(_MAGIC))
        starts_at = _HEADER_START + header_bytes
        self.starts = np.frombuffer(content, "<i8", count + 1, starts_at)
        checksums_at = starts_at + self.starts.nbytes
        self._checksums = np.frombuffer(content, "<i8", count, checksums_at)
        index_end = checksums_at + self._checksums.nbytes
        (self.checksum,) = _CHECKSUM.unpack_from(content, index_end)
        if zlib.crc32(memoryview(content)[:index_end]) != self.checksum:
            raise ValueError("its checksum is wrong")
        self._first = index_end + _CHECKSUM.size
        if self._first + self.starts[-1] != len(content):
            raise ValueError("it has another length")
        self.header = json.loads(content[_HEADER_START:starts_at])

    def record(self, index: int) -> Record:
        """Raises UnpicklingError for all but a dict of plain data, as it was written."""
        start, end = self.starts[index : index + 2].tolist()
        blob = self._bytes[self._first + start : self._first + end]
        if zlib.crc32(blob) != self._checksums[index]:
            raise pickle.UnpicklingError(f"the checksum of record {index} is wrong")
        return _decode(blob)


class _Unpickler(pickle.Unpickler):
    """A pickle is a program; this one can call BoxMode and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _BOX_MODE:
            raise pickle.UnpicklingError(f"forbidden global {module}.{name}")
        return BoxMode


def _encode(record: Record) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    # As a call with a number: some versions of Python would write getattr and a name.
    pickler.dispatch_table = {BoxMode: lambda mode: (BoxMode, (int(mode),))}
    pickler.dump(record)
    return buffer.getvalue()


def _decode(blob: bytes) -> Record:
    try:
        record = _Unpickler(io.BytesIO(blob)).load()
    except Exception as error:  # a pickle that was written to do harm can raise anything
        raise pickle.UnpicklingError(f"no plain data: {error}") from error
    if not isinstance(record, dict):
        raise pickle.UnpicklingError(f"a {type(record).__name__} instead of a dict")
    return record
