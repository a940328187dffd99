"""A config follows its datasets, and says what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode

from transfer_maskrcnn.config import FOLLOW_DATASET, load_config
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import ConfigError

WriteDataset = Callable[[str, Path], dict[str, Any]]


@pytest.fixture
def catalog(write_dataset: WriteDataset, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A catalog with names of this test's own: detectron2's catalogs outlive a test."""
    tag = request.node.name
    coco, masks = tmp_path / "coco", tmp_path / "png"
    entries = {}
    for name, format, folder in (("polygons", "coco", coco), ("masks", "png_masks", masks)):
        entry = write_dataset(format, folder)
        for key in ("annotations", "image_root"):
            entry[key] = str(folder / entry[key])
        entries[f"{name}_{tag}"] = entry
    coco_entry = entries[f"polygons_{tag}"]
    entries[f"reversed_{tag}"] = {**coco_entry, "classes": ["bar", "blob"]}
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


def config(catalog: Path, train: str, test: str, *opts: str) -> CfgNode:
    tag = next(iter(yaml.safe_load(catalog.read_text()))).removeprefix("polygons_")
    cfg = load_config("", ["DATASETS.CATALOG", str(catalog), "MODEL.DEVICE", "cpu", *opts])
    cfg.DATASETS.TRAIN = (f"{train}_{tag}",) if train else ()
    cfg.DATASETS.TEST = (f"{test}_{tag}",)
    return cfg


@pytest.mark.parametrize(
    ("dataset", "classes", "mask_format"),
    [
        ("polygons", 2, "polygon"),
        ("masks", 1, "bitmask"),  # the user never says INPUT.MASK_FORMAT
    ],
)
def test_classes_and_mask_format_follow_the_dataset(
    catalog: Path, dataset: str, classes: int, mask_format: str
) -> None:
    cfg = config(catalog, dataset, dataset)
    cfg = fit_config(cfg).resolve(cfg)
    assert classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert mask_format == cfg.INPUT.MASK_FORMAT


def test_a_stated_number_of_classes_must_be_the_datasets(catalog: Path) -> None:
    fit_config(config(catalog, "polygons", "polygons", "MODEL.ROI_HEADS.NUM_CLASSES", "2"))
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 3, but .* has 2 classes \(blob, bar\)"):
        fit_config(config(catalog, "polygons", "polygons", "MODEL.ROI_HEADS.NUM_CLASSES", "3"))


@pytest.mark.parametrize("test", ["masks", "reversed"])
def test_train_and_test_must_have_the_same_classes(catalog: Path, test: str) -> None:
    with pytest.raises(ConfigError, match=r"name different classes:\n.*'blob', 'bar'"):
        fit_config(config(catalog, "polygons", test))


def test_eval_only_needs_no_training_set(catalog: Path) -> None:
    cfg = config(catalog, "", "polygons")
    spec = fit_config(cfg, eval_only=True)
    assert (spec.classes, spec.schedule) == (("blob", "bar"), None)
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN names no dataset"):
        fit_config(config(catalog, "", "polygons"))


def test_an_unknown_dataset_gets_the_nearest_name() -> None:
    cfg = load_config("", ["DATASETS.TRAIN", "('baloon_train',)", "MODEL.DEVICE", "cpu"])
    with pytest.raises(
        ConfigError, match=r"'baloon_train' .*CATALOG.*did you mean 'balloon_train'"
    ):
        fit_config(cfg)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {TRANSFER: {KEPE: backbone}}", r"'MODEL\.TRANSFER\.KEPE'; did you mean .*KEEP'"),
        ("MODEL: {WIEGHTS: a}", r"'MODEL\.WIEGHTS'; did you mean 'MODEL\.WEIGHTS'"),
        ("DATASETS: {PROPOSAL_FILES_TEST: a}", r"A list is written"),
        ("MODLE: {WEIGHTS: a}", r"'MODLE\.WEIGHTS'; did you mean 'MODEL\.WEIGHTS'"),
        ("MODEL: {WEIGHTS: 3}", r"config\.yaml: .*WEIGHTS"),
        ("MODEL: {WEIGHTS: a", r"not valid YAML"),
        ("_BASE_: nowhere.yaml", r"nowhere\.yaml"),
    ],
)
def test_mistakes_in_a_config_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(f"VERSION: 2\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "config.yaml"))


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'SOLVER\.MAX_ITRE'; did you mean 'SOLVER\.MAX_ITER'"):
        load_config("", ["SOLVER.MAX_ITRE", "3"])
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(str(tmp_path / "nowhere.yaml"))


def test_the_form_of_a_list_is_told_where_one_is_expected() -> None:
    with pytest.raises(ConfigError, match=r"CALIBRATION_SET$"):
        load_config("", ["MODEL.TRANSFER.PSEUDO_LABELS.CALIBRATION_SET", "('held',)"])
    with pytest.raises(ConfigError, match="A list is written"):
        load_config("", ["DATASETS.PROPOSAL_FILES_TRAIN", "held"])


def test_device_defaults_to_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert device == load_config("").MODEL.DEVICE
    with pytest.raises(ConfigError, match=r"'cuda:1'.*no CUDA device; use MODEL\.DEVICE cpu"):
        fit_config(load_config("", ["MODEL.DEVICE", "cuda:1"]))


def test_every_shipped_config_loads_and_opens_with_its_command(repository: Path) -> None:
    files = sorted((repository / "configs").rglob("*.yaml"))
    assert len(files) > 8
    for file in files:
        cfg = load_config(str(file))
        assert cfg.MODEL.MASK_ON and cfg.MODEL.ROI_HEADS.NUM_CLASSES == FOLLOW_DATASET, file
        head = "".join(line for line in file.read_text().splitlines(True) if line.startswith("#"))
        command = head.replace("#", "").replace("\\\n", "").partition("python tools/train_net.py")
        if not command[1]:  # an architecture alone, which `finetune` takes for known weights
            assert "Base-" in file.name and "transfer-maskrcnn finetune" in head
            continue
        named = command[2].split()[1]
        assert (repository / named).is_file(), f"{file} names {named}"
        if "Base-" not in file.name:
            assert repository / named == file


def test_new_class_init_takes_a_text_or_pairs(tmp_path: Path) -> None:
    path, key = tmp_path / "config.yaml", "MODEL.TRANSFER.NEW_CLASS_INIT"
    pairs = [["van", "truck"], ["kite", "mean"]]
    path.write_text(f"VERSION: 2\nMODEL: {{TRANSFER: {{NEW_CLASS_INIT: {pairs}}}}}\n")
    assert pairs == load_config(str(path)).MODEL.TRANSFER.NEW_CLASS_INIT
    assert load_config(str(path), [key, "mean"]).MODEL.TRANSFER.NEW_CLASS_INIT == "mean"
    path.write_text("VERSION: 2\nMODEL: {TRANSFER: {NEW_CLASS_INIT: default}}\n")
    assert pairs == load_config(str(path), [key, str(pairs)]).MODEL.TRANSFER.NEW_CLASS_INIT
    assert load_config(str(path)).MODEL.TRANSFER.NEW_CLASS_INIT is None, "the same as not to say it"


# options beside a file with SOLVER.EPOCHS 3.0, what the config has
TYPED = [
    ([], 3.0),
    (["SOLVER.MAX_ITER", "50"], 0.0),
    (["SOLVER.MAX_ITER", "50", "SOLVER.EPOCHS", "2.0"], 2.0),
    (["SOLVER.EPOCHS", "2.0", "SOLVER.MAX_ITER", "50"], 2.0),
]


@pytest.mark.parametrize(("opts", "epochs"), TYPED)
def test_typed_iterations_win_over_epochs_of_the_file(
    tmp_path: Path, opts: list[str], epochs: float
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("VERSION: 2\nSOLVER: {EPOCHS: 3.0}\n")
    assert epochs == load_config(str(path), opts).SOLVER.EPOCHS
