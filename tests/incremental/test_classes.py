"""The classes of an extended model, and what a dataset's category ids mean to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import training_dicts
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.incremental.classes import annotated_classes, class_places
from transfer_maskrcnn.surgery.read import METADATA_KEY

WriteDataset = Callable[[str, Path], dict[str, Any]]
_numbers = count()  # detectron2's catalogs outlive a test
Make = Callable[..., CfgNode]


def dicts_of(cfg: CfgNode) -> list[dict[str, Any]]:
    """The images that a run of ``cfg`` trains on."""
    return training_dicts(cfg, fit_config(cfg))[1]


def write_weights(path: Path, classes: list[str] | None, source: str = "") -> str:
    path.parent.mkdir(exist_ok=True)
    metadata = {"thing_classes": classes, "transfer": {"source": source}}
    content = {"model": {"a": torch.zeros(1)}}
    torch.save({**content, **({METADATA_KEY: metadata} if classes else {})}, path)
    return str(path)


@pytest.fixture
def make(write_dataset: WriteDataset, tmp_path: Path) -> Make:
    """make(*opts, train=..., test=..., source=...) -> an unfitted config that extends a source."""
    entry = write_dataset("coco", tmp_path)
    number = next(_numbers)
    entries = {f"{key}{number}": {**entry, "classes": ["blob", "bar"]} for key in ("train", "val")}
    entries[f"old{number}"] = {**entry, "classes": ["Bars"], "merge": {"Bars": ["bar", "blob"]}}
    entries[f"other{number}"] = {**entry, "classes": ["bar", "blob", "x"]}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(entries))

    def config(*opts: Any, test: str = "val", source: Any = ("bar", "dot")) -> CfgNode:
        weights = write_weights(tmp_path / "source.pth", source and list(source))
        keys = ["MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True]
        keys += ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "output")]
        keys += ["DATASETS.CATALOG", str(tmp_path / "my.yaml"), "MODEL.DEVICE", "cpu"]
        keys += ["DATASETS.TRAIN", (f"train{number}",), "DATASETS.TEST", (f"{test}{number}",)]
        return load_config("", [*keys, *opts])

    return config


def test_the_sources_classes_come_first(make: Make) -> None:
    cfg = make()
    before = cfg.dump()
    spec = fit_config(cfg)
    assert (spec.classes, spec.tasks) == (("bar", "dot", "blob"), (2, 1))
    assert cfg.dump() == before, "a config is what the user wrote"
    assert spec.resolve(cfg).MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert class_places(cfg, fit_config(cfg).classes, cfg.DATASETS.TRAIN[0]) == [2, 0]


def test_records_are_renumbered_and_the_catalogs_left_alone(make: Make) -> None:
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    name = cfg.DATASETS.TRAIN[0]
    before, metadata = copy.deepcopy(DatasetCatalog.get(name)), MetadataCatalog.get(name).as_dict()
    names = list(DatasetCatalog.list())
    found = dicts_of(cfg)
    assert [[a["category_id"] for a in d["annotations"]] for d in found] == [
        [2, 0],
        [2],
        [0, 0],
        [2, 0],
    ]
    assert DatasetCatalog.get(name) == before
    assert MetadataCatalog.get(name).as_dict() == metadata
    assert DatasetCatalog.list() == names


def test_without_it_nothing_changes(make: Make) -> None:
    cfg = make("MODEL.TRANSFER.EXTEND", False)
    assert list(fit_config(cfg).classes) == ["blob", "bar"]
    assert class_places(cfg, fit_config(cfg).classes, cfg.DATASETS.TRAIN[0]) is None
    assert dicts_of(cfg) == list(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))


def test_a_test_set_may_have_some_of_the_classes(make: Make) -> None:
    cfg = make(test="old")
    assert list(fit_config(cfg).classes) == ["bar", "dot", "blob"]
    assert class_places(cfg, fit_config(cfg).classes, cfg.DATASETS.TEST[0]) == [0]
    words = r"^DATASETS\.TEST 'other.*' has the class 'x', which the extended model lacks"
    with pytest.raises(ConfigError, match=rf"{words}: .*'blob'\. Name another set, or .*`merge`"):
        fit_config(make(test="other"))
    names = cfg.DATASETS.TEST[0].replace("old", "other"), cfg.DATASETS.TEST[0]
    with pytest.raises(ConfigError, match=r"^DATASETS\.TEST_BASE 'other"):
        fit_config(make("DATASETS.TEST_BASE", names))


def test_crowds_do_not_make_a_class_annotated(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = make()
    classes = fit_config(cfg).classes
    assert annotated_classes(cfg, classes, warn=True) == {0, 2}
    annotations = [{"category_id": 0}, {"category_id": 1, "iscrowd": 1}]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [{"annotations": annotations}])
    assert annotated_classes(cfg, classes, warn=False) == {2}
    assert "has no instance" not in caplog.text
    assert annotated_classes(cfg, classes, warn=True) == {2}
    assert "has no instance of 'bar'" in caplog.text


# the source's class, what is logged of the dataset's class "bar", and how
ALIKE = [
    ("Bar", "; 'bar' is its 'Bar'", "INFO"),
    ("bars", "class 'bar' is taken for 'bars' of", "WARNING"),
]


@pytest.mark.parametrize(("source", "words", "level"), ALIKE)
def test_names_that_are_taken_for_one(
    make: Make, caplog: pytest.LogCaptureFixture, source: str, words: str, level: str
) -> None:
    cfg = make(source=[source, "dot"])
    with caplog.at_level("INFO"):
        assert list(fit_config(cfg).classes) == [source, "dot", "blob"]
    found = [r for r in caplog.records if "'bar'" in r.getMessage()]
    assert [r.levelname for r in found] == [level] and words in found[0].getMessage()


def test_names_that_the_file_does_not_carry(make: Make) -> None:
    names = ("MODEL.TRANSFER.SOURCE_CLASSES", ["bar", "dot"])
    assert list(fit_config(make(*names, source=None)).classes) == ["bar", "dot", "blob"]
    with pytest.raises(ConfigError, match=r"EXTEND needs the class names.*SOURCE_CLASSES"):
        fit_config(make(source=None))


# names, words of the error; the file has a classifier of four classes
NAMES = [
    (["bar", "dot", "bar", "N/A"], r"several classes named 'bar'.*with '' for rows without"),
    (
        ["bar", "dot"],
        r"a classifier of 4 classes, and 2 names \('bar', 'dot'\); correct .*SOURCE_CL",
    ),
]


@pytest.mark.parametrize(("names", "words"), NAMES)
@pytest.mark.parametrize("carried", [False, True])
def test_names_that_do_not_tell_rows_apart(
    make: Make, names: list[str], words: str, carried: bool
) -> None:
    cfg = make(source=names if carried else None)
    content = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    content["model"]["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(5, 2)
    torch.save(content, cfg.MODEL.WEIGHTS)
    cfg.MODEL.TRANSFER.SOURCE_CLASSES = [] if carried else names
    with pytest.raises(ConfigError, match=words):
        fit_config(cfg)


def test_names_that_contradict_the_file(make: Make) -> None:
    with pytest.raises(WeightFileError, match=r"Remove SOURCE_CLASSES, the file knows"):
        fit_config(make("MODEL.TRANSFER.SOURCE_CLASSES", ["dot", "bar"]))


def test_rows_without_a_class_are_left_out_and_counted(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert list(fit_config(make(source=["bar", "", "dot", ""])).classes) == [
            "bar",
            "dot",
            "blob",
        ]
    assert "2 rows of" in caplog.text and "have no class, and are left out" in caplog.text


def test_a_source_set_without_any_of_the_sources_classes(make: Make) -> None:
    cfg = make(source=["dot"])
    cfg.DATASETS.TEST_BASE = cfg.DATASETS.TEST
    with pytest.raises(ConfigError, match=r"TEST_BASE 'val.*has none of the source's classes"):
        fit_config(cfg)


# keys, words of the error
WRONG: list[tuple[list[Any], str]] = [
    (["MODEL.TRANSFER.KEEP", "all_but_predictors"], r"EXTEND True keeps .*KEEP class_rows"),
    (["MODEL.TRANSFER.ENABLED", False], r"EXTEND True keeps .*ENABLED True"),
    # a row of the source cannot be kept and replaced
    (["MODEL.TRANSFER.CLASS_MAP", [["bar", "dot"]]], "gives 'dot' the rows of 'bar', but EXTEND"),
    (["MODEL.ROI_HEADS.NUM_CLASSES", 2], "but the extended model has 3 classes"),
]


@pytest.mark.parametrize(("opts", "words"), WRONG)
def test_keys_that_contradict_it(make: Make, opts: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_config(make(*opts))


def test_an_evaluation_has_the_classes_of_its_model(make: Make, tmp_path: Path) -> None:
    trained = ["bar", "dot", "blob"]
    # a trained file that is named
    assert list(fit_config(make(source=trained), eval_only=True).classes) == trained
    # the source itself, on what it knows
    assert list(fit_config(make(test="old"), eval_only=True).classes) == ["bar", "dot"]
    with pytest.raises(ConfigError, match=r"lacks: .* --eval-only takes them from"):
        fit_config(make(), eval_only=True)
    # the model in OUTPUT_DIR, which started from MODEL.WEIGHTS
    cfg = make()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "last_checkpoint").write_text("model_1.pth")
    write_weights(tmp_path / "output" / "model_1.pth", trained, cfg.MODEL.WEIGHTS)
    assert list(fit_config(cfg, eval_only=True).classes) == trained
    # both for --eval-only and --resume, also after the source is gone
    Path(cfg.MODEL.WEIGHTS).unlink()
    assert list(fit_config(cfg, eval_only=True).classes) == trained
    assert list(fit_config(cfg).classes) == trained
    cfg.OUTPUT_DIR = str(tmp_path / "new")
    with pytest.raises(WeightFileError, match="no such weight file"):
        fit_config(cfg)
