"""Which runs a study consists of, and what each is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import ConfigError, TransferPlanError
from transfer_maskrcnn.study.design import Design, Run, check_variants, make_design
from transfer_maskrcnn.study.runner import run_keys

CONFIG = "configs/shapes/mask_rcnn_transfer.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.chdir(repository)


def design(*options: str, variants: str = "random_init,backbone", seeds: int = 2) -> Design:
    return make_design(CONFIG, options, variants.split(","), [1, 0.25], seeds)


def test_all_else_is_equal() -> None:
    study = design("SOLVER.MAX_ITER", "160")
    runs = study.runs()
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4, "a comparison is whole early"
    configs = [load_config(CONFIG, study.arguments(run, Path("out"))[2:]) for run in runs]
    for run, cfg in zip(runs, configs, strict=True):
        assert (run.seed, run.fraction) == (cfg.SEED, cfg.DATASETS.TRAIN_FRACTION)
        assert f"out/{run.folder}" == cfg.OUTPUT_DIR
        assert cfg.SOLVER == configs[0].SOLVER, "budget, batches and learning rate"
        assert cfg.TEST.EVAL_ITERS == [0, 10, 20, 40, 80]
        assert cfg.SOLVER.CHECKPOINT_PERIOD == 20


def test_the_config_may_say_when_to_evaluate() -> None:
    study = design("TEST.EVAL_ITERS", "[3]")
    cfg = load_config(CONFIG, study.arguments(study.runs()[0], Path("out"))[2:])
    assert cfg.TEST.EVAL_ITERS == [0, 3], "and the start is always measured"


SETTINGS_OF_THE_STUDY = [
    # what a study decides, or could not be compared with, and what the error says
    (["SEED", "3"], "SEED is set by the study"),
    (["MODEL.TRANSFER.KEEP", "backbone"], "KEEP is set by the study"),
    (["TEST.EARLY_STOPPING", "2"], "EARLY_STOPPING is 2, but a study"),
    (["SOLVER.EPOCHS", "2.0"], "EPOCHS is 2, but a study"),
]


@pytest.mark.parametrize(("options", "message"), SETTINGS_OF_THE_STUDY)
def test_what_a_study_does_not_leave_to_the_config(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        design(*options)


MISTAKES = [
    # arguments of make_design from variants on, what the error says
    ((["backbone"], [1], 1), "at least two variants"),  # nothing to compare with
    ((["backbone", "backbone"], [1], 1), "each with another name"),  # the same twice
    ((["backbone@a/x.pth", "backbone@b/x.pth"], [1], 1), "not its folder"),  # same file name
    ((["backbone@x y.pth", "backbone@x+y.pth"], [1], 1), "letters, digits"),  # same folder name
    ((["random_init", "backbone"], [1], 0), "--seeds 0"),  # no run
    ((["random_init", "backbone"], [1.5], 1), "--fractions"),  # more than all images
    ((["random_init", "backbone"], [], 1), "--fractions"),  # no fraction
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes(arguments: tuple[list[str], list[float], int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_design(CONFIG, [], *arguments)


def test_one_dataset_a_side() -> None:
    with pytest.raises(ConfigError, match=r"one dataset in DATASETS.TRAIN"):
        make_design(CONFIG, ["DATASETS.TEST", "()"], ["random_init", "backbone"], [1], 1)


@pytest.fixture
def toy(write_dataset: object, tmp_path: Path) -> list[str]:
    """Options that put a tiny dataset in the place of the shapes."""
    entry = write_dataset("coco", tmp_path)  # type: ignore[operator]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({f"toy_{tmp_path.name}": entry}))
    name = f"('toy_{tmp_path.name}',)"
    catalog = ["DATASETS.CATALOG", str(tmp_path / "my.yaml"), "MODEL.DEVICE", "cpu"]
    return [*catalog, "DATASETS.TRAIN", name, "DATASETS.TEST", name]


def test_variants_are_checked_before_anything_is_trained(toy: list[str], tmp_path: Path) -> None:
    study = design(*toy, variants="from_scratch,backbone,all_but_predictors")
    shares = check_variants(study, tmp_path / "out")
    assert shares["from_scratch"] == 0
    assert 0.3 < shares["backbone"] < shares["all_but_predictors"] < 1
    # class_rows, and no class of the source is among blob and bar
    with pytest.raises(TransferPlanError, match="no target class"):
        check_variants(design(*toy, variants="random_init,class_rows"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def configs(study: Design, output_dir: Path) -> dict[Run, CfgNode]:
    return {run: study.fitted(run, output_dir)[0] for run in study.runs()}


def test_a_runs_key(toy: list[str], tmp_path: Path) -> None:
    study = design(*toy)
    first, *others = run_keys(configs(study, tmp_path)).values()
    assert all(key["config"] != first["config"] for key in others)
    elsewhere = configs(study, tmp_path / "other")
    for cfg in elsewhere.values():
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 7
    same = next(iter(run_keys(elsewhere).values()))
    assert same == first, "where and with how many workers changes no result"


@pytest.mark.parametrize("mark", ["", "?matching_heuristics=True"])
def test_a_runs_key_is_that_of_the_files_as_they_are_now(
    mark: str, toy: list[str], tmp_path: Path
) -> None:
    weights = tmp_path / "copy.pth"
    weights.write_bytes(Path("configs/shapes/shapes_source.pth").read_bytes())
    study = design(*toy, "MODEL.WEIGHTS", f"{weights}{mark}")
    fitted = configs(study, tmp_path)
    backbone = next(run for run in fitted if run.variant.name == "backbone")
    before = run_keys(fitted)[backbone]
    elsewhere = run_keys(configs(design(*toy), tmp_path)).values()
    assert before in elsewhere, "where they lie does not matter"
    weights.write_bytes(weights.read_bytes() + b" ")
    with next((tmp_path / "images" / "train").iterdir()).open("ab") as image:
        image.write(b" ")
    after = run_keys(fitted)[backbone]
    assert after["weights"] != before["weights"] and after["data"] != before["data"]
    assert after["config"] == before["config"]


LABELS = "MODEL.TRANSFER.PSEUDO_LABELS"
# keys that name another set, whether what is in it matters
OTHER_SETS = [
    (["DATASETS.TEST_BASE", ("other",)], True),
    ([f"{LABELS}.CALIBRATION_SET", "other", f"{LABELS}.ENABLED", True], True),
    ([f"{LABELS}.CALIBRATION_SET", "other"], False),
    ([f"{LABELS}.ENABLED", True], False),
]


@pytest.mark.parametrize(("options", "matters"), OTHER_SETS)
def test_a_runs_key_depends_on_all_data(
    monkeypatch: pytest.MonkeyPatch, options: list[Any], matters: bool
) -> None:
    content = {"train": [{"file_name": __file__}], "test": [{"file_name": __file__}]}
    monkeypatch.setattr(DatasetCatalog, "get", content.__getitem__)
    cfg = load_config("")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("test",)
    cfg.merge_from_list(options)
    run = design().runs()[0]
    keys = []
    for found in ([], [{"category_id": 0, "bbox": [0, 0, 1, 1]}]):
        content["other"] = [{"file_name": __file__, "annotations": found}]
        keys.append(run_keys({run: cfg})[run]["data"])
    assert (keys[0] != keys[1]) is matters
    plain = load_config("", ["DATASETS.TRAIN", "('train',)", "DATASETS.TEST", "('test',)"])
    of_others = run_keys({run: plain})[run]["data"]
    assert (of_others not in keys) is matters, "of other runs it is what it was"


def test_extended_variants_need_a_test_set_of_the_novel_classes(
    repository: Path, write_dataset: object, tmp_path: Path
) -> None:
    entry = write_dataset("coco", tmp_path)  # type: ignore[operator]
    new, other = f"new_{tmp_path.name}", f"other_{tmp_path.name}"
    entries = {new: entry, other: {**entry, "classes": ["bar", "blob"]}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(entries))
    options = ["DATASETS.CATALOG", str(tmp_path / "my.yaml"), "MODEL.DEVICE", "cpu"]
    options += ["DATASETS.TRAIN", f"('{new}',)", "DATASETS.TEST_BASE", "()", "DATASETS.TEST"]
    off = ["MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", "False"]
    config, variants = (
        str(repository / "configs/shapes/mask_rcnn_extend.yaml"),
        "all_but_predictors",
    )
    same = make_design(config, [*options, f"('{new}',)", *off], [variants, "class_rows"], [1], 1)
    assert check_variants(same, tmp_path / "out").keys() == {variants, "class_rows"}
    differing = make_design(
        config, [*options, f"('{other}',)", *off], [variants, "class_rows"], [1], 1
    )
    with pytest.raises(ConfigError, match=r"EXTEND is for class_rows alone.*Test on a set of the"):
        check_variants(differing, tmp_path / "out")
