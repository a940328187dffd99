"""Names into detectron2's catalogs."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

import transfer_maskrcnn
from transfer_maskrcnn.data.registry import register_catalog, register_catalogs
from transfer_maskrcnn.errors import ConfigError, DatasetError

WriteDataset = Callable[[str, Path], dict[str, Any]]


@pytest.fixture(autouse=True)
def forget_new_names() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


@pytest.fixture
def entry(write_dataset: WriteDataset, tmp_path: Path) -> dict[str, Any]:
    entry = write_dataset("coco", tmp_path)
    for key in ("annotations", "image_root"):
        entry[key] = str(tmp_path / entry[key])
    return entry


def test_fills_both_catalogs(entry: dict[str, Any]) -> None:
    transfer_maskrcnn.register_dataset("toy", **entry)
    assert MetadataCatalog.get("toy").thing_classes == ["blob", "bar"], "known before any reading"
    assert len(DatasetCatalog.get("toy")) == 4
    metadata = MetadataCatalog.get("toy")
    assert metadata.thing_dataset_id_to_contiguous_id == {10: 0, 20: 1}
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == entry["annotations"]
    assert metadata.mask_format == "polygon"


def test_registration_reads_nothing(entry: dict[str, Any]) -> None:
    transfer_maskrcnn.register_dataset("toy", **{**entry, "annotations": "/nowhere.json"})
    with pytest.raises(DatasetError, match=r"'toy'.*nowhere\.json"):
        DatasetCatalog.get("toy")


def test_a_missing_dataset_names_the_command_that_gets_it(entry: dict[str, Any]) -> None:
    entry.update(annotations="/nowhere.json", prepare="python datasets/prepare_toy.py")
    transfer_maskrcnn.register_dataset("toy", **entry)
    with pytest.raises(DatasetError, match=r"To get this dataset: python datasets/prepare_toy\.py"):
        DatasetCatalog.get("toy")


def test_the_same_again_is_fine_and_other_arguments_are_not(entry: dict[str, Any]) -> None:
    transfer_maskrcnn.register_dataset("toy", **entry)
    transfer_maskrcnn.register_dataset("toy", **entry)
    with pytest.raises(DatasetError, match=r"'toy' is already registered with other arguments"):
        transfer_maskrcnn.register_dataset("toy", **{**entry, "classes": ["bar", "blob"]})


def test_a_name_of_another_package_is_left_alone(entry: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=r"'coco_2017_val' is already registered by another"):
        transfer_maskrcnn.register_dataset("coco_2017_val", **entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "cocoo"}, r"unknown format 'cocoo'.*did you mean 'coco'"),
        ({"attribute": "x"}, r"format coco has no option 'attribute'"),
        ({"hold_out_every": 3}, r"part goes with split or hold_out_every"),
        ({"split": {"val": 0.2}, "hold_out_every": 2}, r"two ways"),
        ({"part": "val"}, r"part goes with split or hold_out_every"),
        ({"hold_out_every": 1, "part": "val"}, r"hold_out_every is 1; .*at least 2"),
        ({"hold_out_every": 2, "part": "test"}, r"part is 'test'; expected train or val"),
    ],
)
def test_unusable_declarations(entry: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        transfer_maskrcnn.register_dataset("toy", **{**entry, **change})
    assert "toy" not in DatasetCatalog


def test_hold_out_splits_one_file_without_overlap(
    entry: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        transfer_maskrcnn.register_dataset(f"toy_{part}", **entry, hold_out_every=3, part=part)
    with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
        train, val = (
            {d["image_id"] for d in DatasetCatalog.get(f"toy_{part}")} for part in ("train", "val")
        )
    assert (train, val) == ({1, 2}, {0, 3})
    assert "toy_val, part 'val': 2 of 2 images, 4 of 4 instances kept" in caplog.text
    # its json holds the other part's images too: stock COCOEvaluator must not read it
    assert not hasattr(MetadataCatalog.get("toy_val"), "json_file")


def test_a_lost_image_moves_no_other_to_the_other_part(entry: dict[str, Any]) -> None:
    first = sorted(p for p in Path(entry["image_root"]).iterdir() if p.suffix in (".png", ".jpg"))[
        0
    ]
    first.unlink()
    for part in ("train", "val"):
        transfer_maskrcnn.register_dataset(f"toy_{part}", **entry, hold_out_every=3, part=part)
    train, val = (
        {d["image_id"] for d in DatasetCatalog.get(f"toy_{part}")} for part in ("train", "val")
    )
    assert (train, val) == ({1, 2}, {3})


def test_one_line_counts_what_was_kept(
    entry: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    transfer_maskrcnn.register_dataset("toy", **entry)
    with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
        DatasetCatalog.get("toy")
        DatasetCatalog.get("toy")
    lines = [r.getMessage() for r in caplog.records if "dataset toy:" in r.getMessage()]
    assert lines == ["dataset toy: 4 of 4 images, 7 of 7 instances kept"], "read once, said once"


def test_catalog_paths_are_relative_to_the_catalog(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"toy": write_dataset("via", tmp_path)}))
    assert register_catalog(tmp_path / "my.yaml") == ["toy"]
    assert len(DatasetCatalog.get("toy")) == 4


def test_several_catalogs(entry: dict[str, Any], tmp_path: Path) -> None:
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file, names in zip(files, (["toy_a"], ["toy_a", "toy_b"]), strict=True):
        file.write_text(yaml.safe_dump(dict.fromkeys(names, entry)))
    assert register_catalogs(str(files[1])) == ["toy_a", "toy_b"]
    for several in (files, tuple(map(str, files))):
        assert register_catalogs(several) == ["toy_a", "toy_b"], "each once"
    for none in (None, "", [], ()):
        assert register_catalogs(none) == []
    for wrong in (7, [7], [""], ["a.yaml", None]):
        with pytest.raises(ConfigError, match=r"DATASETS\.CATALOG is .*several"):
            register_catalogs(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy: {format: coco", r"not valid YAML"),
        ("", r"declares no dataset"),
        ("- toy", r"declares no dataset"),
        ("toy: coco", r"entry 'toy' is not a name with keys"),
        ("toy: {format: coco}", r"'toy' lacks 'annotations'"),
        ("toy: {format: coco, anotations: a.json}", r"lacks 'annotations'; the file has 'anotat"),
        ("toy: {format: coco, annotations: a, classes: [1, 2]}", r"classes is \[1, 2\]; expected"),
        ("toy: {format: coco, annotations: a, name: b}", r"'name' is no key of a dataset"),
        ("toy: {format: coco, annotations: a, 1: b}", r"1 is no key of a dataset"),
        ("toy: {format: [coco], annotations: a}", r"format is \['coco'\]; expected a text"),
        ("toy: {format: coco, annotations: a, clases: [b]}", r"'clases'; it has .*mean 'classes'"),
        ("toy: {format: coco, annotations: a, classes: [no]}", r"classes is \[False\].*quotes"),
        (
            "toy: {format: coco, annotations: a, classes: [[%s]]}" % ("x" * 5000),
            r"x\.\.\.; expected",
        ),
        ("toy: {format: %s, annotations: a}" % ("x" * 5000), r"unknown format 'x+\.\.\.; "),
    ],
)
def test_unusable_catalogs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        register_catalog(tmp_path / "my.yaml")


def test_missing_catalog(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read the dataset catalog .*my\.yaml"):
        register_catalog(tmp_path / "my.yaml")


def _count_in_worker(entry: dict[str, Any], results: Any) -> None:
    transfer_maskrcnn.register_dataset("toy", **entry)
    results.put((len(DatasetCatalog.get("toy")), "balloon_train" in DatasetCatalog))


@pytest.mark.slow
def test_works_in_a_spawned_worker(entry: dict[str, Any]) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(target=_count_in_worker, args=(entry, results))
    worker.start()
    assert results.get(timeout=60) == (4, True)
    worker.join()


def test_merged_labels(entry: dict[str, Any], tmp_path: Path) -> None:
    declared = {**entry, "classes": ["thing"], "merge": {"thing": ["blob", "bar"]}}
    path = tmp_path / "merged.yaml"
    path.write_text(yaml.safe_dump({"toy": declared, "plain": entry}))
    register_catalog(path)
    register_catalog(path)
    records, plain = DatasetCatalog.get("toy"), DatasetCatalog.get("plain")
    assert {a["category_id"] for r in records for a in r["annotations"]} == {0}
    assert {a["category_id"] for r in plain for a in r["annotations"]} == {0, 1}, "left alone"
    metadata = MetadataCatalog.get("toy")
    assert metadata.thing_classes == ["thing"]
    assert metadata.thing_dataset_id_to_contiguous_id == {10: 0}
    assert not hasattr(metadata, "json_file"), "it has the labels, not the classes"
    with pytest.raises(DatasetError, match="already registered with other arguments"):
        transfer_maskrcnn.register_dataset("toy", **{**declared, "merge": {"thing": ["bar"]}})
    with pytest.raises(DatasetError, match=r"dataset 'bad': merge is 'car'; expected a class"):
        transfer_maskrcnn.register_dataset("bad", **{**entry, "merge": "car"})
