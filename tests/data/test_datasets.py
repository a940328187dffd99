"""A dataset from the cache is what parsing would give, or it does not come from there."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from PIL import Image

from transfer_maskrcnn.data import datasets
from transfer_maskrcnn.data.datasets import DatasetSpec, Records, cache_key, load, parse
from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.registry import dataset_digest, dataset_facts, register_dataset
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation.coco import ground_truth

WriteSpec = Callable[[str], DatasetSpec]
SIDE = 16


@pytest.fixture(autouse=True)
def forget_new_names() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        forget(name)


def forget(name: str) -> None:
    """As in a process that has just started."""
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("content", ["polygons", "crowd", "bitmasks", "via"])
def test_equals_the_parsed_one(
    write_spec: WriteSpec, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(content)
    parsed, first = parse(spec), load(spec)
    monkeypatch.setattr("transfer_maskrcnn.data.formats.assemble.probe_images", None)
    second = load(spec)
    assert parsed == first == second
    assert second.report.summary() == parsed.report.summary()
    assert second.report.left_out["never seen"] == 0, "still a Counter"
    assert len(parsed.files) == 6, "those left out included"
    for loaded in (first, second):
        assert isinstance(loaded.dicts, Records), "the same both times"
        modes = {type(a["bbox_mode"]) for d in loaded.dicts for a in d["annotations"]}
        assert modes == {BoxMode}
        for position, count, record in zip(
            loaded.positions, loaded.instances, loaded.dicts, strict=True
        ):
            assert loaded.files[position] == record["file_name"]
            assert count == len(record["annotations"])
    assert parsed.mask_format == ("bitmask" if content == "bitmasks" else "polygon")
    assert parsed.report.images_left_out and parsed.report.left_out


def test_merged_labels_are_cached_for_themselves(write_spec: WriteSpec) -> None:
    spec = write_spec("via")
    plain = load(spec)
    merged_spec = replace(spec, merge={"all": plain.classes})
    merged = load(merged_spec)
    assert isinstance(merged.dicts, Records)
    assert merged == load(merged_spec) == parse(merged_spec)
    assert merged.classes == ("all",) != plain.classes
    assert {a["category_id"] for d in merged.dicts for a in d["annotations"]} == {0}
    assert load(spec) == plain


@pytest.mark.parametrize("content", ["polygons", "via"])
def test_registered_again_it_is_the_same(
    write_spec: WriteSpec, content: str, caplog: pytest.LogCaptureFixture, parsed: list[str]
) -> None:
    spec = write_spec(content)
    seen = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
            for part in ("train", "val"):
                register_dataset(
                    f"toy_{part}",
                    format=spec.format,
                    annotations=spec.annotations,
                    image_root=spec.image_root,
                    hold_out_every=3,
                    part=part,
                    **spec.options,
                )
            train, val = (DatasetCatalog.get(f"toy_{part}") for part in ("train", "val"))
        metadata = [MetadataCatalog.get(f"toy_{part}").as_dict() for part in ("train", "val")]
        lines = [record.getMessage() for record in caplog.records]
        seen.append((list(train), list(val), metadata, lines))
        for part in ("train", "val"):
            forget(f"toy_{part}")
    assert seen[0] == seen[1]
    assert parsed == [content.replace("polygons", "coco")], "the other part is of the same file"
    train, val, _, lines = seen[0]
    assert [Path(d["file_name"]).name for d in val] == ["0.png", "3.png"]
    assert [line.split(":")[0] for line in lines] == [
        f"dataset toy_{part}, part {part!r}" for part in ("train", "val")
    ]


def test_who_uses_the_catalog_sees_no_difference(
    spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    for cache in ("", str(tmp_path / "cache"), str(tmp_path / "cache")):
        monkeypatch.setenv("TRANSFER_CACHE", cache)
        register_dataset(
            "toy", format="coco", annotations=spec.annotations, image_root=spec.image_root
        )
        dicts = DatasetCatalog.get("toy")
        assert isinstance(dicts, Records if cache else list)
        random.seed(0)
        seen.append(
            [
                get_detection_dataset_dicts("toy"),
                random.sample(dicts, 3),
                dicts[1:],
                dicts + dicts,
                {**ground_truth("toy"), "info": None},  # which has the time of day
                dataset_digest("toy"),
                dataset_facts("toy"),
            ]
        )
        forget("toy")
    assert seen[0] == seen[1] == seen[2]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def age(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def grow(path: Path) -> None:
    old = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(0, old.st_mtime_ns))


def draw(path: Path, width: int) -> None:
    Image.fromarray(np.zeros((SIDE, width, 3), np.uint8)).save(path)


# what is done to the folder
CHANGES: list[Callable[[Path], object]] = [
    lambda folder: edit(folder / "a.json", '"cat"', '"bat"'),
    lambda folder: edit(folder / "a.json", "10.5", "10.6"),
    lambda folder: edit(folder / "a.json", '{"images"', '{ "images"'),  # the same content
    lambda folder: draw(folder / "images" / "0.png", SIDE + 1),
    lambda folder: grow(folder / "images" / "0.png"),
    lambda folder: age(folder / "images" / "0.png"),
    lambda folder: age(folder / "images" / "2.png"),  # left out: it may be usable now
    lambda folder: age(folder / "images" / "5.png"),  # without an annotation
    lambda folder: (folder / "images" / "3.png").unlink(),
    lambda folder: draw(folder / "images" / "1.png", SIDE),  # was missing
    lambda folder: draw(folder / "images" / "1.jpg", SIDE),  # which its name leads to, too
    lambda folder: (folder / "images" / "1.png").symlink_to("0.png"),
    lambda folder: (folder / "images" / "0.png").chmod(0o600),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_files_is_seen(
    spec: DatasetSpec, tmp_path: Path, parsed: list[str], change: Callable[[Path], object]
) -> None:
    load(spec)
    load(spec)
    assert len(parsed) == 1
    change(tmp_path)
    assert load(spec) == parse(spec)
    load(spec)
    assert len(parsed) == 3, "the new state was cached"


@pytest.mark.parametrize(
    "classes", [("cat", "dog"), ("dog", "cat"), ("cat", "dog", "bird"), ["cat", "dog"]]
)
def test_other_classes_are_another_dataset(
    spec: DatasetSpec, parsed: list[str], classes: Sequence[str]
) -> None:
    load(spec)
    other = replace(spec, classes=classes)
    assert load(other).classes == tuple(classes)
    assert len(parsed) == 2


def test_another_option_is_another_dataset(write_spec: WriteSpec, parsed: list[str]) -> None:
    spec = write_spec("via")
    load(spec)
    spec.options["attribute"] = "colour"
    assert load(spec).classes == ("red",)
    assert len(parsed) == 2


def test_the_format_is_part_of_the_key(spec: DatasetSpec) -> None:
    assert cache_key(spec) != cache_key(replace(spec, format="via"))


def test_the_folder_of_images_counts_as_given_and_as_it_is(
    spec: DatasetSpec, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``file_name`` begins with the path as given: relative, it holds in one folder only."""
    relative = replace(spec, image_root="images")
    (tmp_path / "images").rename(tmp_path / "moved")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "images").symlink_to(tmp_path / "moved")
        monkeypatch.chdir(tmp_path / folder)
        assert load(relative).dicts[0]["file_name"] == "images/0.png"
    absolute = replace(spec, image_root=os.path.abspath("images"))
    assert load(absolute).dicts[0]["file_name"] == f"{tmp_path}/other/images/0.png"
    assert len(parsed) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__version__", "another"),
        ("BoxMode", []),
        ("_code_digest", lambda: "another"),
        ("PIL.__version__", "another"),  # it decides which images can be read
        ("os.geteuid", lambda: 4242),
    ],
)
def test_what_another_program_cached_is_not_used(
    spec: DatasetSpec,
    parsed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
) -> None:
    load(spec)
    monkeypatch.setattr(f"{datasets.__name__}.{name}", value)
    load(spec)
    assert len(parsed) == 2


@pytest.mark.parametrize("file", ["a.json", "images/0.png", "images/3.png"])
def test_a_change_during_the_parse_is_not_cached(
    spec: DatasetSpec, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def parse_and_change(*args: Any, **kwargs: Any) -> LoadedDataset:
        loaded = FORMATS["via"](*args, **kwargs)
        path = tmp_path / file
        if file == "images/3.png":
            path.unlink()
        else:
            old = path.stat()
            path.write_bytes(path.read_bytes().replace(b"10.5", b"11.5"))
            os.utime(path, ns=(0, old.st_mtime_ns))  # as copying with the date does
        return loaded

    monkeypatch.setitem(FORMATS, "via", FORMATS["coco"])
    monkeypatch.setitem(FORMATS, "coco", parse_and_change)
    assert isinstance(load(spec).dicts, list)
    assert not cache.exists()


def test_the_garbage_collector_rests_while_parsing_and_works_afterwards(
    write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec("polygons")
    seen = []
    read = FORMATS["coco"]

    def parse_and_look(*arguments: Any, **options: Any) -> LoadedDataset:
        seen.append(gc.isenabled())
        return read(*arguments, **options)

    monkeypatch.setitem(FORMATS, "coco", parse_and_look)
    parse(spec)
    assert (seen, gc.isenabled()) == ([False], True)


def test_images_that_may_change_within_a_tick_are_not_cached(
    spec: DatasetSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_YOUNG_NS", 3_600_000_000_000)
    assert isinstance(load(spec).dicts, list)
    assert not cache.exists()


def test_a_small_dataset_leaves_nothing_behind(
    spec: DatasetSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_MIN_ITEMS", 1_000)
    assert isinstance(load(spec).dicts, list)
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
    lambda path: (path.unlink(), path.mkdir()),  # cannot be overwritten either
]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_file_is_no_cache(
    spec: DatasetSpec, cache: Path, parsed: list[str], change: Callable[[Path], object]
) -> None:
    load(spec)
    path = only_file(cache)
    whole = path.read_bytes()
    change(path)
    assert load(spec) == parse(spec)
    assert len(parsed) == 3
    load(spec)
    assert path.is_dir() or path.read_bytes() == whole, "written anew"


def test_a_file_of_another_dataset_is_no_cache(
    spec: DatasetSpec, cache: Path, tmp_path: Path
) -> None:
    load(spec)
    foreign = only_file(cache)
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("10.5", "11.5"))
    foreign.rename(cache / f"{cache_key(spec)}.safetensors")
    assert load(spec) == parse(spec)


def test_a_folder_that_cannot_be_made(
    spec: DatasetSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
        assert load(spec) == parse(spec)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING and line.name == "transfer_maskrcnn.data.cache"


def test_a_full_disk(spec: DatasetSpec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transfer_maskrcnn.files.os.replace", full)
    assert load(spec) == parse(spec)
    assert list(cache.iterdir()) == []


def test_a_cache_that_is_too_small(
    spec: DatasetSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer_maskrcnn.data.cache._MAX_BYTES", 10)
    assert load(spec) == parse(spec)
    assert not cache.exists()


@pytest.mark.parametrize(("slow", "level"), [(0.0, logging.INFO), (3600.0, logging.DEBUG)])
def test_who_waited_long_reads_that_it_was_the_last_time(
    spec: DatasetSpec,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slow: float,
    level: int,
) -> None:
    monkeypatch.setattr(datasets, "_SLOW_SECONDS", slow)
    with caplog.at_level(logging.DEBUG, "transfer_maskrcnn"):
        load(spec)
        load(spec)
    (line,) = caplog.records
    path = only_file(cache)
    assert line.getMessage() == f"dataset toy: cached for next time in {path}"
    assert line.levelno == level


def test_a_hit_makes_the_file_the_last_to_go(spec: DatasetSpec, cache: Path) -> None:
    load(spec)
    os.utime(only_file(cache), (0, 0))
    load(spec)
    assert only_file(cache).stat().st_mtime > 0


@pytest.mark.parametrize("format", ["labelme", "yolo", "png_masks"])
def test_other_formats_are_not_looked_at(
    format: str, tmp_path: Path, cache: Path, parsed: list[str], write_dataset: Any
) -> None:
    entry = write_dataset(format, tmp_path)
    del entry["format"]
    annotations, root = str(tmp_path / entry.pop("annotations")), entry.pop("image_root", None)
    spec = DatasetSpec("toy", format, annotations, root and str(tmp_path / root))
    classes = entry.pop("classes", None)
    spec = replace(spec, classes=classes, options=entry)
    for _ in range(2):
        assert isinstance(load(spec).dicts, list)
    assert parsed == [format] * 2 and not cache.exists()


@pytest.mark.parametrize("annotations", ["nowhere.json", "a\0.json", "."])
def test_annotations_that_are_no_file_are_the_loader_s_error(
    spec: DatasetSpec, tmp_path: Path, annotations: str
) -> None:
    path = str(tmp_path / annotations)
    with pytest.raises(DatasetError):
        load(replace(spec, annotations=path))


def test_annotations_that_cannot_be_read_here_are_left_to_the_loader(
    spec: DatasetSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets, "file_digest", refused)
    assert load(spec) == parse(spec)
    assert not cache.exists()


def test_images_that_are_no_files(spec: DatasetSpec, tmp_path: Path, parsed: list[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace('"3.png"', '"\\ud800\\u0000.png"'))
    (tmp_path / "images" / "1.png").mkdir()
    assert load(spec) == load(spec)
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


def test_two_processes_at_once(spec: DatasetSpec, cache: Path, parsed: list[str]) -> None:
    expected = parse(spec)

    def check() -> None:
        for _ in range(20):
            for path in cache.glob("*.safetensors"):
                path.unlink(missing_ok=True)  # so that both write over and over
            assert load(spec) == expected

    assert in_children(check, 2) == [0, 0]
    assert load(spec) == expected
    assert len(list(cache.iterdir())) == 1, "no temporary file is left"


def test_a_kill_before_the_renaming_leaves_nothing_that_is_read(
    spec: DatasetSpec, cache: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("transfer_maskrcnn.files.os.replace", kill)
        assert in_children(lambda: load(spec), 1) == [-signal.SIGKILL]
    assert only_file(cache).name.endswith(".part")
    assert load(spec) == parse(spec)
    assert len(parsed) == 2


def test_processes_share_the_pages(spec: DatasetSpec) -> None:
    load(spec)
    dicts = load(spec).dicts
    pages = Path("/proc/self/maps").read_text()
    assert isinstance(dicts, Records)
    assert any(line.endswith(".safetensors") for line in pages.splitlines())


@pytest.fixture
def records(spec: DatasetSpec) -> Records:
    dicts = load(spec).dicts
    assert isinstance(dicts, Records) and len(dicts) == 4
    return dicts


def test_records_behave_as_a_list(records: Records) -> None:
    plain = list(records)
    assert records == plain and records[-1] == plain[-1]
    assert records[::-1] == plain[::-1] == list(reversed(records))
    assert records + plain == plain + records == plain * 2
    assert plain[1] in records and records.index(plain[1]) == 1
    assert len(random.sample(records, 2)) == 2
    assert records != plain[1:] and records != tuple(plain)
    with pytest.raises(IndexError):
        records[4]
    with pytest.raises(TypeError):
        records["0"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "part", [slice(1, None), slice(None, None, -1), slice(0, 0), slice(5, 9), slice(-2, 2)]
)
def test_slices_are_views(records: Records, part: slice) -> None:
    view = records[part]
    assert isinstance(view, Records)
    assert view == list(records)[part] and view[1:] == list(records)[part][1:]


@pytest.mark.parametrize("indices", [[2, 0], [], (1,)])
def test_take(records: Records, indices: Sequence[int]) -> None:
    assert records.take(indices) == [records[i] for i in indices]


def test_a_change_of_one_dict_reaches_nobody_else(records: Records) -> None:
    before = list(records)
    records[0]["annotations"].append(1)
    assert records == before


@pytest.mark.slow
def test_records_go_to_another_process(records: Records) -> None:
    assert pickle.loads(pickle.dumps(records[1:])) == records[1:]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(list, records).result(timeout=60) == records


@pytest.mark.parametrize("content", ["polygons", "crowd", "bitmasks", "via"])
def test_the_digest_is_of_the_content_and_not_of_where_it_lies(
    write_spec: WriteSpec, content: str, tmp_path: Path
) -> None:
    spec = write_spec(content)
    cached, parsed = load(spec).dicts, parse(spec).dicts
    digest = datasets.fingerprint(cached)
    assert digest == datasets.fingerprint(parsed)
    moved = [{**d, "file_name": "elsewhere/" + Path(d["file_name"]).name} for d in parsed]
    assert digest == datasets.fingerprint(moved)
    others = [cached[1:], [*parsed[1:], parsed[0]], [{**d, "file_name": "a"} for d in parsed]]
    parsed[0]["annotations"][0]["bbox"][0] += 0.001
    assert digest not in map(datasets.fingerprint, [*others, parsed])
