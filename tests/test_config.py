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
