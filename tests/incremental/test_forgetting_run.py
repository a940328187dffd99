"""What an extended run tells of its base classes, and that its source is evaluated but once."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import SOURCE_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.evaluation import evaluate_model, print_summary
from transfer_maskrcnn.engine.manifest import read_manifest
from transfer_maskrcnn.engine.run import evaluate
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.incremental import source
from transfer_maskrcnn.incremental.source import note_source, source_facts
from transfer_maskrcnn.modeling.build import build_model

pytestmark = pytest.mark.slow

TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0),
    *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ()),
    *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 1e-4),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
]
Make = Callable[..., CfgNode]


@pytest.fixture
def make(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """make(*opts) -> the unfitted config of one iteration, with novel and base sets."""
    for name, classes in (("novel", ("star", "heart")), ("base", SOURCE_CLASSES)):
        write_split(ShapesSplit(name, classes, 6, 5), tmp_path / name)
        register_dataset(
            f"{name}_{tmp_path.name}",
            format="coco",
            annotations=tmp_path / name / "annotations.json",
            image_root=tmp_path / name / "images",
        )
    weights = tmp_path / "source.pth"
    shutil.copy(repository / "configs/shapes/shapes_source.pth", weights)
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))

    def config(*opts: Any) -> CfgNode:
        novel, base = f"novel_{tmp_path.name}", f"base_{tmp_path.name}"
        places = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path / "output")]
        places += ["DATASETS.TRAIN", f"('{novel}',)", "DATASETS.TEST", f"('{novel}',)"]
        places += ["DATASETS.TEST_BASE", f"('{base}',)"]
        base = str(repository / "configs/shapes/Base-shapes.yaml")
        return load_config(base, [*TINY, *places, *opts])

    return config


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the folder's name of each image that a source model looks at."""
    folders: list[str] = []
    inner = source._compute

    def counting(cfg: CfgNode, images: dict[str, Any], *rest: Any) -> Any:
        folders.extend(Path(r["file_name"]).parent.parent.name for r in images.values())
        return inner(cfg, images, *rest)

    monkeypatch.setattr(source, "_compute", counting)
    return folders


def written(cfg: CfgNode) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(cfg.OUTPUT_DIR, "evaluation.json").read_text())
    return content


def evaluate_only(cfg: CfgNode, named: str | None = None) -> dict[str, Any]:
    """The extension of ``--eval-only``."""
    spec = fit_config(cfg, eval_only=True)
    evaluate(spec.resolve(cfg), spec, named)
    extension: dict[str, Any] = written(cfg)["extension"]
    return extension


def test_train_resume_and_evaluate(
    make: Make,
    train: Callable[..., Any],
    evaluated: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = make("TEST.EVAL_ITERS", [0], "TEST.BEST_METRIC", "segm/AP")
    cfg = fit_config(cfg).resolve(cfg)
    novel, base = cfg.DATASETS.TEST[0], cfg.DATASETS.TEST_BASE[0]
    run = train(cfg)
    assert evaluated == ["base"] * 6, "once for both evaluations"
    first = written(cfg)
    assert list(first) == [novel, base, "extension"]
    found = first["extension"]
    assert (found["base_classes"], found["novel_classes"]) == (8, 2)
    assert found["sets"] == {"base": [base], "novel": [novel]}
    for task in ("segm", "bbox"):
        assert found[task]["base"] == pytest.approx(first[base][task]["AP"])
        assert found[task]["novel"] == pytest.approx(first[novel][task]["AP"] or 0.0)
    lost = found["segm"]["forgetting"]
    assert lost["ap"] == pytest.approx(found["segm"]["before"] - found["segm"]["base"])
    assert lost["low"] <= lost["ap"] <= lost["high"] and found["segm"]["images"] == 6
    row = json.loads(Path(cfg.OUTPUT_DIR, "eval_history.json").read_text())[-1]
    assert {"segm/AP", f"{base}/segm/AP"} <= row.keys()
    print_summary(cfg, run.trainer.results)
    out = capsys.readouterr().out
    assert re.search(rf"{base} +segm", out) and "base classes (8): mask AP" in out

    evaluated.clear()
    assert evaluate_only(make()) == found
    named = str(Path(cfg.OUTPUT_DIR, "model_final.pth"))
    assert evaluate_only(make("MODEL.WEIGHTS", named), named) == found, "its own source is meant"
    copied = shutil.copy(cfg.MODEL.WEIGHTS, f"{cfg.OUTPUT_DIR}/copy.pth")
    again = make("MODEL.WEIGHTS", copied)
    assert evaluate_only(again, copied) == found, "the run's model, not its source, is meant"
    longer = make("SOLVER.MAX_ITER", 2, "TEST.BEST_METRIC", f"{base}/segm/AP")
    longer = fit_config(longer).resolve(longer)
    train(longer, resume=True)
    assert evaluated == [] and written(longer)["extension"]["segm"]["before"] is not None

    Path(cfg.MODEL.WEIGHTS).unlink()
    gone = evaluate_only(make())
    assert gone["segm"]["forgetting"], "remembered"
    shutil.rmtree(os.environ["TRANSFER_CACHE"])
    with caplog.at_level(logging.WARNING, "transfer_maskrcnn"):
        caplog.clear()
        gone = evaluate_only(make())
    assert gone["segm"]["forgetting"] is None and gone["segm"]["base"] > 0
    assert "what the model has forgotten there cannot be told" in caplog.text


def test_what_the_source_found_is_remembered_as_long_as_it_holds(
    make: Make, evaluated: list[str], tmp_path: Path
) -> None:
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    Path(cfg.OUTPUT_DIR).mkdir()
    base = cfg.DATASETS.TEST_BASE[0]

    def computed(*opts: Any, dataset: str = base) -> int:
        own = make(*opts)
        own = fit_config(own).resolve(own)
        evaluated.clear()
        facts = source_facts(own)
        assert facts
        found = source.source_matches(own, facts, dataset, ("bbox", "segm"))
        assert sorted(found) == ["bbox", "segm"] and found["segm"].iou_type == "segm"
        return len(evaluated)

    assert computed() == 6
    # what changes nothing: another run, seed, budget, frozen parts, other annotations
    assert computed("SEED", 7, "SOLVER.MAX_ITER", 9, "MODEL.TRANSFER.FREEZE", "backbone") == 0
    register_dataset(
        f"again_{tmp_path.name}",
        format="coco",
        annotations=tmp_path / "base/annotations.json",
        image_root=tmp_path / "base/images",
        merge={"Circle": ["circle"]},
    )
    assert computed(dataset=f"again_{tmp_path.name}") == 0
    # what changes the detections
    assert computed("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3) == 6
    assert computed("INPUT.MIN_SIZE_TEST", 96) == 6
    # an image, then the weights
    image = next((tmp_path / "base/images").iterdir())
    with image.open("ab") as file:
        file.write(b"\0")
    assert (computed(), computed()) == (1, 0)
    with Path(cfg.MODEL.WEIGHTS).open("ab") as file:
        file.write(b"\0")
    assert computed() == 6


def test_a_source_that_was_replaced_is_not_taken_for_it(make: Make, tmp_path: Path) -> None:
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    Path(cfg.OUTPUT_DIR).mkdir()
    note_source(cfg)
    with Path(cfg.MODEL.WEIGHTS).open("ab") as file:
        file.write(b"\0")
    facts = source_facts(cfg)
    assert facts
    with pytest.raises(WeightFileError, match="was replaced by another file"):
        source.source_matches(cfg, facts, cfg.DATASETS.TEST_BASE[0], ("segm",))


def test_without_a_cache_folder_the_run_remembers(
    make: Make, evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", "")
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    Path(cfg.OUTPUT_DIR).mkdir()
    facts = source_facts(cfg)
    assert facts
    for _ in range(2):
        assert source.source_matches(cfg, facts, cfg.DATASETS.TEST_BASE[0], ("segm",))
    assert len(evaluated) == 6


def test_base_classes_in_the_test_sets_do_without_test_source(
    make: Make, evaluated: list[str]
) -> None:
    """Sets that annotate novel classes alone are not shown to the source."""
    cfg = make()
    both = f"('{cfg.DATASETS.TEST[0]}', '{cfg.DATASETS.TEST_BASE[0]}')"
    cfg = make("DATASETS.TEST", both, "DATASETS.TEST_BASE", "()")
    cfg = fit_config(cfg).resolve(cfg)
    evaluate_model(cfg, fit_config(cfg), build_model(cfg).eval())
    assert evaluated == ["base"] * 6
    found = written(cfg)["extension"]["segm"]
    assert found["before"] > 5 and found["forgetting"]["ap"] == found["before"] - found["base"]


def test_configs_that_are_refused(make: Make) -> None:
    plain = make("MODEL.TRANSFER.EXTEND", False)
    with pytest.raises(ConfigError, match=r"TEST_BASE names .* set EXTEND True"):
        fit_config(plain)
    unknown = make("DATASETS.TEST_BASE", "('nowhere',)")
    with pytest.raises(ConfigError, match="no dataset is registered as 'nowhere'"):
        fit_config(unknown)
    other = make("DATASETS.TEST_BASE", "('extension',)")
    with pytest.raises(ConfigError, match="give it another name"):
        fit_config(other)


def test_a_source_that_was_moved(make: Make, train: Callable[..., Any], tmp_path: Path) -> None:
    """Resumed with its novel path, evaluated from the run's config, then gone."""
    cfg = make()
    fit_config(cfg)
    train(cfg)
    first = written(cfg)["extension"]
    moved = str(Path(cfg.MODEL.WEIGHTS).rename(tmp_path / "moved.pth"))
    longer = make("MODEL.WEIGHTS", moved, "SOLVER.MAX_ITER", 2)
    fit_config(longer)
    train(longer, resume=True)
    found = written(longer)["extension"]
    assert evaluate_only(make("MODEL.WEIGHTS", moved)) == found
    Path(moved).unlink()
    assert evaluate_only(make("MODEL.WEIGHTS", moved)) == found
    assert found["segm"]["before"] == first["segm"]["before"]


def test_evaluating_another_model_leaves_what_the_run_knows_of_its_source(
    make: Make,
    train: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = make()
    cfg = fit_config(cfg).resolve(cfg)
    train(cfg)
    noted = read_manifest(tmp_path / "output")
    shutil.copy(tmp_path / "output/model_final.pth", tmp_path / "other.pth")
    with (tmp_path / "other.pth").open("ab") as file:
        file.write(b"\0")
    other = str(tmp_path / "other.pth")
    with caplog.at_level(logging.WARNING, "transfer_maskrcnn"):
        evaluate_only(make("MODEL.WEIGHTS", other), other)
    assert "other.pth is not of the run in" in caplog.text
    assert read_manifest(tmp_path / "output") == noted
