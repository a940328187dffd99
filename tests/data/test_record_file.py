"""A list of dicts in a file that cannot be trusted."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import pickle
import random
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.structures import BoxMode

from transfer_maskrcnn.data import record_file
from transfer_maskrcnn.data.record_file import Record, RecordFile, write_records
from transfer_maskrcnn.errors import DatasetError

RECORDS: list[Record] = [
    {"file_name": "a.png", "image_id": 2**70, "annotations": []},
    {"annotations": [{"bbox": [0.1, -0.0, math.inf], "bbox_mode": BoxMode.XYWH_ABS}]},
    {"segmentation": {"size": [4, 5], "counts": "3^o"}, "bytes": b"\x00\xff", "lone": "\ud800"},
]


def no_parse() -> Sequence[Record]:
    raise AssertionError("the file is good: nothing is to be parsed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.records"
    write_records(path, {"title": "é"}, RECORDS)
    return path


def test_gives_back_what_was_written(path: Path) -> None:
    records = RecordFile(path, no_parse)
    assert records.header == {"title": "é"}
    assert records == RECORDS
    assert type(records[1]["annotations"][0]["bbox_mode"]) is BoxMode
    assert not list(path.parent.glob(".*")), "no temporary file is left"


def test_without_records(tmp_path: Path) -> None:
    write_records(tmp_path / "empty", {}, [])
    assert list(RecordFile(tmp_path / "empty", no_parse)) == []


def test_behaves_as_a_list(path: Path) -> None:
    records, others = RecordFile(path, no_parse), [{"other": 1}]
    assert records == RECORDS and records == RecordFile(path, no_parse)
    plain = list(RECORDS)
    assert plain == records, "where the list is asked first"
    assert records != RECORDS[:2] and records != [*RECORDS[:2], {}] and records != "abc"
    assert records[-1] == RECORDS[-1] and records[np.int64(1)] == RECORDS[1]
    assert records + others == RECORDS + others and others + records == others + RECORDS
    assert records + records == RECORDS * 2
    assert list(reversed(records)) == RECORDS[::-1]
    assert RECORDS[1] in records and records.index(RECORDS[1]) == 1
    assert len(random.sample(records, 2)) == 2
    with pytest.raises(IndexError):
        records[3]
    with pytest.raises(TypeError):
        records["0"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "part",
    [slice(1, None), slice(None, None, -1), slice(0, 0), slice(5, 9), slice(-2, 2)],
)
def test_slices_are_views(path: Path, part: slice) -> None:
    view = RecordFile(path, no_parse)[part]
    assert isinstance(view, RecordFile)
    assert view == RECORDS[part]
    assert view[1:] == RECORDS[part][1:]


@pytest.mark.parametrize("indices", [[2, 0], [], (1,)])
def test_take(path: Path, indices: Sequence[int]) -> None:
    assert RecordFile(path, no_parse).take(indices) == [RECORDS[i] for i in indices]


def test_a_change_of_one_dict_reaches_nobody_else(path: Path) -> None:
    records = RecordFile(path, no_parse)
    records[0]["annotations"].append(1)
    assert records == RECORDS


def test_a_file_cut_at_any_length_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            RecordFile(path, no_parse)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError):
        RecordFile(path, no_parse)


def test_a_changed_byte_changes_no_record(path: Path) -> None:
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            records = RecordFile(path, partial(list, RECORDS))
        except ValueError:
            refused += 1
            continue
        assert records == RECORDS
        assert not path.exists(), "the next start is not to find it"
    assert refused < len(whole), "opening it looks at no record"


def index_of(header: bytes, header_bytes: int, count: int, arrays: bytes) -> bytes:
    lengths = record_file._LENGTHS.pack(header_bytes, count)
    return record_file._MAGIC + lengths + header + arrays


@pytest.mark.parametrize(
    "index",
    [
        record_file._MAGIC,  # shorter than the lengths
        b"TMRCNN\0\2" + index_of(b"{}", 2, 0, bytes(8))[8:],  # of another layout
        index_of(b"{}", 2**64 - 1, 0, bytes(8)),  # a header beyond the end
        index_of(b"{}", 2, 2**64 - 1, bytes(8)),  # more records than fit a number
        index_of(b"{}", 2, 2**30, bytes(8)),  # more than there are
        index_of(b"{}", 2, 0, b"\1" + bytes(7)),  # records beyond the end
        index_of(b"\xff{", 2, 0, bytes(8)),  # no text
        index_of(b"[" * 10**5, 10**5, 0, bytes(8)),  # nested too deep
    ],
)
def test_an_index_made_to_do_harm_is_refused(tmp_path: Path, index: bytes) -> None:
    checksum = record_file._CHECKSUM.pack(zlib.crc32(index))
    (tmp_path / "a.records").write_bytes(index + checksum)
    with pytest.raises(ValueError, match="damaged or no record file"):
        RecordFile(tmp_path / "a.records", no_parse)


def test_the_least_index_is_accepted(tmp_path: Path) -> None:
    """So that the cases above are refused for what they are made for."""
    index = index_of(b"{}", 2, 0, bytes(8))
    checksum = record_file._CHECKSUM.pack(zlib.crc32(index))
    (tmp_path / "a.records").write_bytes(index + checksum)
    assert len(RecordFile(tmp_path / "a.records", no_parse)) == 0


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        RecordFile(Path("nowhere.records"), no_parse)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


class ModeByName:
    """As pickled by a Python that writes getattr: not what this package writes."""

    def __reduce__(self) -> Any:
        return getattr, (BoxMode, "XYXY_ABS")


PLANTED = [
    lambda target: pickle.dumps({"a": Evil(target)}),
    lambda target: pickle.dumps({"a": ModeByName()}),
    lambda target: pickle.dumps([1]),  # data, but no dict
    lambda target: b"\x80\x05cdetectron2.structures.boxes\nBoxMode.convert\n.",
    lambda target: b"\x80\x05cdetectron2.structures\nBoxMode\n.",  # another way to the class
    lambda target: b"\x80\x05]K\x01e.",  # makes the unpickler itself stumble
    lambda target: b"",
]


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_records_are_refused_and_parsed_instead(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plant: Any,
) -> None:
    target, path = tmp_path / "made", tmp_path / "a.records"
    monkeypatch.setattr(record_file, "_encode", lambda record: plant(target))
    write_records(path, {}, RECORDS)
    records = RecordFile(path, partial(copy.deepcopy, RECORDS))
    assert records[1] == RECORDS[1] and records[::2] == RECORDS[::2]
    records[0]["annotations"].append(1)
    assert records == RECORDS, "copies here, too"
    assert not target.exists()
    assert not path.exists(), "the next start is not to find it"
    assert caplog.text.count("reading the annotations instead") == 1


def test_parsing_that_gives_another_number_is_an_error(path: Path) -> None:
    records = pickle.loads(pickle.dumps(RecordFile(path, partial(list, RECORDS[:1]))))
    path.unlink()
    with pytest.raises(DatasetError, match=r"held 3 images, .* now give 1: .*Start again"):
        records[0]


@pytest.mark.parametrize("change", ["none", "gone", "written anew"])
def test_goes_to_another_process_as_a_path(path: Path, change: str) -> None:
    sent = pickle.dumps(RecordFile(path, partial(list, RECORDS))[1:])
    if change == "gone":
        path.unlink()
    if change == "written anew":
        write_records(path, {}, [{"of": "another state"}] * 3)
    received = pickle.loads(sent)
    assert received == RECORDS[1:]
    assert path.exists() == (change != "gone")


def test_a_path_is_small(path: Path) -> None:
    write_records(path, {}, [{"counts": "x" * 10_000}] * 10)
    assert len(pickle.dumps(RecordFile(path, no_parse))) < 1_000


def test_works_in_a_spawned_worker(path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(list, RecordFile(path, list)).result(timeout=60) == RECORDS


def test_a_failed_write_leaves_what_was_there(path: Path) -> None:
    with pytest.raises(AttributeError):
        write_records(path, {}, [{"a": lambda: None}])
    assert RecordFile(path, no_parse) == RECORDS
    assert list(path.parent.iterdir()) == [path]
