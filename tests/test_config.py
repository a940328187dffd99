"""The keys, and files that may come from anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from transfer_maskrcnn.config import RunSpec, add_transfer_config, flat_config, load_config
from transfer_maskrcnn.errors import ConfigError


def plain(cfg: CfgNode) -> Any:
    return json.loads(json.dumps(dict(flat_config(cfg))))  # tuples become lists, as in YAML


def test_stock_detectron2_builds_a_model_of_the_keys() -> None:
    cfg = get_cfg()
    add_transfer_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert model.roi_heads.box_predictor.cls_score.out_features == 81


def test_a_runs_own_config_is_read_with_the_keys_alone(tmp_path: Path) -> None:
    spec = RunSpec(("cat", "dog"), seed=7, mask_format="bitmask")
    resolved = spec.resolve(load_config("", ["MODEL.DEVICE", "cpu"]))
    (tmp_path / "config.yaml").write_text(resolved.dump())
    cfg = get_cfg()
    add_transfer_config(cfg)
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    ours = load_config(str(tmp_path / "config.yaml"))
    assert plain(cfg) == plain(resolved) == plain(ours)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.SEED) == (2, 7)


@pytest.mark.parametrize("base", [False, True])
def test_a_file_runs_no_code(tmp_path: Path, base: bool) -> None:
    evil, done = tmp_path / "evil.yaml", tmp_path / "done"
    evil.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {done}']\n")
    (tmp_path / "own.yaml").write_text("_BASE_: evil.yaml\n")
    with pytest.raises(ConfigError, match="evil") as error:
        load_config(str(tmp_path / ("own.yaml" if base else "evil.yaml")))
    assert not done.exists()
    assert "\n" not in str(error.value)


def test_what_is_known_leaves_the_config_alone() -> None:
    cfg = load_config("")
    before = cfg.dump()
    own = RunSpec(("cat",), seed=3).resolve(cfg)
    assert cfg.dump() == before and own.is_frozen() and not cfg.is_frozen()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "plain text",
        "- a list",
        "MODEL:",  # a section without its pairs
        "MODEL: 3",
        "1: 2",
        "_BASE_:",
        "_BASE_: 3",
        "_BASE_: config.yaml",  # itself
        "_BASE_: .",  # a folder
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("in_file", ["null", "''", "a.yaml", "[a.yaml, b.yaml]"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("c.yaml", "c.yaml"),
        ("('c.yaml', 'd.yaml')", ("c.yaml", "d.yaml")),
        ("['c.yaml']", ["c.yaml"]),
    ],
)
def test_one_catalog_or_several_whatever_the_file_has(
    tmp_path: Path, in_file: str, typed: str, expected: Any
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"DATASETS: {{CATALOG: {in_file}}}")
    load_config(str(path))
    cfg = load_config(str(path), ["DATASETS.CATALOG", typed])
    assert expected == cfg.DATASETS.CATALOG
    path.write_text(RunSpec(("cat",)).resolve(cfg).dump())  # a run's own config
    assert expected in (
        load_config(str(path)).DATASETS.CATALOG,
        tuple(load_config(str(path)).DATASETS.CATALOG),
    )


def test_a_key_below_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match="command line"):
        load_config("", ["SOLVER.MAX_ITER.X", "3"])


# how a value may be written, typed and (where YAML has it) in a file -> what it becomes
WRITTEN = [
    # a name where a list of names is meant
    ("DATASETS.TRAIN", "my_train", ("my_train",)),
    ("DATASETS.TEST", "''", ()),
    ("MODEL.TRANSFER.SOURCE_CLASSES", "coco_2017_val", ["coco_2017_val"]),
    ("DATASETS.TEST", "['a', 'b']", ("a", "b")),  # as ever
    # a number where several may be
    ("TEST.EVAL_ITERS", "0", [0]),
    ("SOLVER.STEPS", "75", (75,)),
    # numbers of the other kind, where no digit is lost
    ("SOLVER.EPOCHS", "3", 3.0),
    ("SOLVER.MAX_ITER", "1e3", 1000),
    ("SOLVER.BASE_LR", "1e-3", 0.001),  # which YAML takes for a text
    ("TEST.VAL_LOSS", "true", True),
]


@pytest.mark.parametrize("way", ["typed", "file"])
@pytest.mark.parametrize(("key", "written", "value"), WRITTEN)
def test_a_value_is_taken_as_it_is_meant(
    tmp_path: Path, way: str, key: str, written: str, value: Any
) -> None:
    path, (section, _, name) = tmp_path / "config.yaml", key.rpartition(".")
    for part in [name, *reversed(section.split("."))]:
        written = f"{{{part}: {written}}}" if way == "file" else written
    path.write_text(written if way == "file" else "SEED: 1")
    cfg = load_config(str(path), [] if way == "file" else [key, written])
    found = dict(flat_config(cfg))[key]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MAX_ITER=5"], "SOLVER.MAX_ITER"),  # the nearest right key
        (["SOLVER.MAX_ITER"], "SOLVER.MAX_ITER: a key without a value"),
        (["SOLVER.MAX_ITER", "1.5"], "SOLVER.MAX_ITER"),  # a digit would be lost
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["DATASETS.TRAIN", "3"], "DATASETS.TRAIN"),
        (["SOLVER.EPOCHS", "True"], "SOLVER.EPOCHS"),
    ],
)
def test_what_cannot_be_meant_is_refused(opts: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("", opts)
    assert words in str(error.value)
