"""Whatever happens to the cache, a dataset is loaded as if there were none."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data import dataset_cache, record_file
from transfer_maskrcnn.data.dataset_cache import DatasetSource, load_dataset
from transfer_maskrcnn.data.record_file import RecordFile
from transfer_maskrcnn.errors import DatasetError


def test_images_that_may_change_within_a_tick_are_not_cached(
    source: DatasetSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_cache, "_YOUNG_NS", 3_600_000_000_000)
    assert isinstance(load_dataset("toy", source).dicts, list)
    assert not cache.exists()


def test_a_small_dataset_leaves_nothing_behind(
    source: DatasetSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_cache, "_MIN_ITEMS", 1_000)
    assert isinstance(load_dataset("toy", source).dicts, list)
    assert not cache.exists()


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def damage(path: Path, place: float) -> None:
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= 0x40
    path.write_bytes(whole)


# what is done to the cached file
DAMAGES: list[Callable[[Path], object]] = [
    *(lambda path, k=k: damage(path, k / 23) for k in range(23)),  # type: ignore[misc]
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_text("a file of another program, which is longer than a header"),
    lambda path: record_file.write_records(path, {}, []),
    lambda path: record_file.write_records(path, {"content": [], "key": path.stem}, [{}]),
    lambda path: (path.unlink(), path.mkdir()),  # cannot be overwritten either
]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_file_is_no_cache(
    source: DatasetSource, cache: Path, parsed: list[str], change: Callable[[Path], object]
) -> None:
    load_dataset("toy", source)
    path = only_file(cache)
    whole = path.read_bytes()
    change(path)
    assert load_dataset("toy", source) == source.parse()
    assert len(parsed) == 3
    load_dataset("toy", source)
    assert path.is_dir() or path.read_bytes() == whole, "written anew"


def test_a_file_of_another_dataset_is_no_cache(
    source: DatasetSource, cache: Path, tmp_path: Path
) -> None:
    load_dataset("toy", source)
    foreign = only_file(cache)
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("10.5", "11.5"))
    foreign.rename(cache / f"{source.key()}.records")
    assert load_dataset("toy", source) == source.parse()


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_planted_file_runs_nothing(source: DatasetSource, cache: Path, tmp_path: Path) -> None:
    parsed = source.parse()
    path = cache / f"{source.key()}.records"
    cache.mkdir(parents=True)
    images = dataset_cache._state_of(parsed.files)
    evil = [{"annotations": Evil(tmp_path / "made")} for _ in parsed.dicts]
    record_file.write_records(path, dataset_cache._header(parsed, path, images), evil)
    assert load_dataset("toy", source) == parsed
    assert not (tmp_path / "made").exists() and not path.exists()
    load_dataset("toy", source)
    assert load_dataset("toy", source) == parsed and path.exists()


def test_a_folder_that_cannot_be_made(
    source: DatasetSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
        assert load_dataset("toy", source) == source.parse()
    (line,) = caplog.messages
    assert line.startswith("dataset toy: not cached for next time: ")


def test_a_full_disk(source: DatasetSource, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transfer_maskrcnn.files.os.replace", full)
    assert load_dataset("toy", source) == source.parse()
    assert list(cache.iterdir()) == []


def test_a_cache_that_is_too_small(
    source: DatasetSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer_maskrcnn.data.cache_folder._MAX_BYTES", 10)
    assert load_dataset("toy", source) == source.parse()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("slow", "level"), [(0.0, logging.INFO), (3600.0, logging.DEBUG)])
def test_who_waited_long_reads_that_it_was_the_last_time(
    source: DatasetSource,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slow: float,
    level: int,
) -> None:
    monkeypatch.setattr(dataset_cache, "_SLOW_SECONDS", slow)
    with caplog.at_level(logging.DEBUG, "transfer_maskrcnn"):
        load_dataset("toy", source)
        load_dataset("toy", source)
    (line,) = caplog.records
    path = only_file(cache)
    assert line.getMessage() == f"dataset toy: cached for next time in {path} (0 MB)"
    assert line.levelno == level


def test_a_hit_makes_the_file_the_last_to_go(source: DatasetSource, cache: Path) -> None:
    load_dataset("toy", source)
    os.utime(only_file(cache), (0, 0))
    load_dataset("toy", source)
    assert only_file(cache).stat().st_mtime > 0


@pytest.mark.parametrize("format", ["labelme", "yolo", "png_masks"])
def test_other_formats_are_not_looked_at(
    format: str, tmp_path: Path, cache: Path, parsed: list[str], write_dataset: Any
) -> None:
    entry = write_dataset(format, tmp_path)
    del entry["format"]
    annotations, root = str(tmp_path / entry.pop("annotations")), entry.pop("image_root", None)
    source = DatasetSource(format, annotations, root and str(tmp_path / root), entry)
    for _ in range(2):
        assert isinstance(load_dataset("toy", source).dicts, list)
    assert parsed == [format] * 2 and not cache.exists()


@pytest.mark.parametrize("annotations", ["nowhere.json", "a\0.json", "."])
def test_annotations_that_are_no_file_are_the_loader_s_error(
    source: DatasetSource, tmp_path: Path, annotations: str
) -> None:
    path = str(tmp_path / annotations)
    with pytest.raises(DatasetError):
        load_dataset("toy", DatasetSource("coco", path, source.image_root, {}))


def test_annotations_that_cannot_be_read_here_are_left_to_the_loader(
    source: DatasetSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(f"{dataset_cache.__name__}.os.pread", refused)
    assert load_dataset("toy", source) == source.parse()
    assert not cache.exists()


def test_images_that_are_no_files(source: DatasetSource, tmp_path: Path, parsed: list[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace('"3.png"', '"\\ud800\\u0000.png"'))
    (tmp_path / "images" / "1.png").mkdir()
    assert load_dataset("toy", source) == load_dataset("toy", source)
    assert len(parsed) == 1


def in_children(task: Callable[[], object], count: int) -> list[int | None]:
    """Runs it in processes at the same time; their exit codes."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(count)

    def run() -> None:
        start.wait()
        task()

    children = [context.Process(target=run) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


def test_two_processes_at_once(source: DatasetSource, cache: Path, parsed: list[str]) -> None:
    expected = source.parse()

    def check() -> None:
        for _ in range(20):
            for path in cache.glob("*.records"):
                path.unlink(missing_ok=True)  # so that both write over and over
            assert load_dataset("toy", source) == expected

    assert in_children(check, 2) == [0, 0]
    assert load_dataset("toy", source) == expected
    assert len(list(cache.iterdir())) == 1, "no temporary file is left"


def test_a_kill_before_the_renaming_leaves_nothing_that_is_read(
    source: DatasetSource, cache: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("transfer_maskrcnn.files.os.replace", kill)
        assert in_children(lambda: load_dataset("toy", source), 1) == [-signal.SIGKILL]
    assert only_file(cache).name.endswith(".part")
    assert load_dataset("toy", source) == source.parse()
    assert len(parsed) == 2


def test_processes_share_the_pages(source: DatasetSource) -> None:
    load_dataset("toy", source)
    dicts = load_dataset("toy", source).dicts
    pages = Path("/proc/self/maps").read_text()
    assert isinstance(dicts, RecordFile)
    assert any(".records" in line and " r--s " in line for line in pages.splitlines())
