"""A dataset from the cache is what parsing would give, or it does not come from there."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from PIL import Image

from transfer_maskrcnn.data import dataset_cache, register
from transfer_maskrcnn.data.dataset_cache import DatasetSource, load_dataset
from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.record_file import RecordFile
from transfer_maskrcnn.engine.metadata import dataset_fingerprint
from transfer_maskrcnn.evaluation.coco import ground_truth

WriteSource = Callable[[str], DatasetSource]
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
    register._registered.pop(name, None)


@pytest.mark.parametrize("content", ["polygons", "crowd", "bitmasks", "via"])
def test_equals_the_parsed_one(
    write_source: WriteSource, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(content)
    parsed, first = source.parse(), load_dataset("toy", source)
    monkeypatch.setattr("transfer_maskrcnn.data.formats.assemble.probe_images", None)
    second = load_dataset("toy", source)
    assert parsed == first == second
    assert second.report.summary() == parsed.report.summary()
    assert second.report.left_out["never seen"] == 0, "still a Counter"
    assert len(parsed.files) == 6, "those left out included"
    for loaded in (first, second):
        assert isinstance(loaded.dicts, RecordFile), "the same both times"
        modes = {type(a["bbox_mode"]) for d in loaded.dicts for a in d["annotations"]}
        assert modes == {BoxMode}
        for position, count, record in zip(
            loaded.positions, loaded.instances, loaded.dicts, strict=True
        ):
            assert loaded.files[position] == record["file_name"]
            assert count == len(record["annotations"])
    assert parsed.mask_format == ("bitmask" if content == "bitmasks" else "polygon")
    assert parsed.report.images_left_out and parsed.report.left_out


def test_merged_labels_are_cached_for_themselves(write_source: WriteSource) -> None:
    source = write_source("via")
    plain = load_dataset("toy", source)
    merged_source = replace(source, merge={"all": plain.classes})
    merged = load_dataset("merged", merged_source)
    assert isinstance(merged.dicts, RecordFile)
    assert merged == load_dataset("merged", merged_source) == merged_source.parse()
    assert merged.classes == ("all",) != plain.classes
    assert {a["category_id"] for d in merged.dicts for a in d["annotations"]} == {0}
    assert load_dataset("toy", source) == plain


@pytest.mark.parametrize("content", ["polygons", "via"])
def test_registered_again_it_is_the_same(
    write_source: WriteSource, content: str, caplog: pytest.LogCaptureFixture, parsed: list[str]
) -> None:
    source = write_source(content)
    seen = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
            for part in ("train", "val"):
                register.register_dataset(
                    f"toy_{part}",
                    format=source.format,
                    annotations=source.annotations,
                    image_root=source.image_root,
                    hold_out_every=3,
                    part=part,
                    **source.arguments,
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
    assert [line.split(":")[0] for line in lines] == ["dataset toy_train"] * 2 + [
        "dataset toy_val"
    ] * 2


def test_who_uses_the_catalog_sees_no_difference(
    source: DatasetSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    for cache in ("", str(tmp_path / "cache"), str(tmp_path / "cache")):
        monkeypatch.setenv("TRANSFER_CACHE", cache)
        register.register_dataset(
            "toy", format="coco", annotations=source.annotations, image_root=source.image_root
        )
        dicts = DatasetCatalog.get("toy")
        assert isinstance(dicts, RecordFile if cache else list)
        random.seed(0)
        seen.append(
            [
                get_detection_dataset_dicts("toy"),
                random.sample(dicts, 3),
                dicts[1:],
                dicts + dicts,
                {**ground_truth("toy"), "info": None},  # which has the time of day
                dataset_fingerprint(["toy"]),
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
    lambda folder: (folder / "images" / "1.png").symlink_to("0.png"),
    lambda folder: (folder / "images" / "0.png").chmod(0o600),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_files_is_seen(
    source: DatasetSource, tmp_path: Path, parsed: list[str], change: Callable[[Path], object]
) -> None:
    load_dataset("toy", source)
    load_dataset("toy", source)
    assert len(parsed) == 1
    change(tmp_path)
    assert load_dataset("toy", source) == source.parse()
    load_dataset("toy", source)
    assert len(parsed) == 3, "the new state was cached"


@pytest.mark.parametrize(
    "classes", [("cat", "dog"), ("dog", "cat"), ("cat", "dog", "bird"), ["cat", "dog"]]
)
def test_other_classes_are_another_dataset(
    source: DatasetSource, parsed: list[str], classes: Sequence[str]
) -> None:
    load_dataset("toy", source)
    other = replace(source, arguments={"classes": classes})
    assert load_dataset("toy", other).classes == tuple(classes)
    assert len(parsed) == 2


def test_another_option_is_another_dataset(write_source: WriteSource, parsed: list[str]) -> None:
    source = write_source("via")
    load_dataset("toy", source)
    source.arguments["attribute"] = "colour"
    assert load_dataset("toy", source).classes == ("red",)
    assert len(parsed) == 2


def test_the_format_is_part_of_the_key(source: DatasetSource) -> None:
    assert source.key() != replace(source, format="via").key()


def test_every_byte_of_the_annotations_is_part_of_the_key(
    source: DatasetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_cache, "_PIECE_BYTES", 64)
    monkeypatch.setattr(dataset_cache, "_BLOCK_BYTES", 16)
    path, keys = Path(source.annotations), set()
    for place in range(150):
        path.write_bytes(b"a" * place + b"b" + b"a" * (149 - place))
        keys.add(source.key())
    for length in range(150):
        path.write_bytes(b"a" * length)
        keys.add(source.key())
    assert len(keys) == 300


def test_the_folder_of_images_counts_as_given_and_as_it_is(
    source: DatasetSource, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``file_name`` begins with the path as given: relative, it holds in one folder only."""
    relative = replace(source, image_root="images")
    (tmp_path / "images").rename(tmp_path / "moved")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "images").symlink_to(tmp_path / "moved")
        monkeypatch.chdir(tmp_path / folder)
        assert load_dataset("toy", relative).dicts[0]["file_name"] == "images/0.png"
    absolute = replace(source, image_root=os.path.abspath("images"))
    assert load_dataset("toy", absolute).dicts[0]["file_name"] == f"{tmp_path}/other/images/0.png"
    assert len(parsed) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__version__", "another"),
        ("LAYOUT", 99),
        ("BoxMode", []),
        ("_code_digest", lambda: "another"),
        ("PIL.__version__", "another"),  # it decides which images can be read
        ("os.geteuid", lambda: 4242),
    ],
)
def test_what_another_program_cached_is_not_used(
    source: DatasetSource,
    parsed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
) -> None:
    load_dataset("toy", source)
    monkeypatch.setattr(f"{dataset_cache.__name__}.{name}", value)
    load_dataset("toy", source)
    assert len(parsed) == 2


@pytest.mark.parametrize("file", ["a.json", "images/0.png", "images/3.png"])
def test_a_change_during_the_parse_is_not_cached(
    source: DatasetSource, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, file: str
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
    assert isinstance(load_dataset("toy", source).dicts, list)
    assert not cache.exists()


def test_the_garbage_collector_rests_while_parsing_and_works_afterwards(
    write_source: WriteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source("polygons")
    seen = []
    parse = FORMATS["coco"]

    def parse_and_look(*arguments: Any, **options: Any) -> LoadedDataset:
        seen.append(gc.isenabled())
        return parse(*arguments, **options)

    monkeypatch.setitem(FORMATS, "coco", parse_and_look)
    source.parse()
    assert (seen, gc.isenabled()) == ([False], True)
