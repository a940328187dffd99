"""Runs are read as they stand, and those that cannot be compared are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.study.results import read_runs, row_and_seed

Files = dict[str, Any]
Write = Callable[..., Path]


def extended(base: float | None = 40.0, novel: float = 60.0, **changes: Any) -> Files:
    """An evaluation.json of 8 base classes and 2 novel ones; box AP is 10 more than mask AP."""

    def figures(more: float) -> Files:
        lost = None if base is None else {"ap": 44.0 - base, "low": 1.0, "high": 9.0}
        known = {"all": 50.0, "harmonic_mean": 48.0, "before": 44.0, "images": 9, "classes": {}}
        return {"base": base, "novel": novel + more, "forgetting": lost, **known}

    extension = {"segm": figures(0), "bbox": figures(10), "base_classes": 8, "novel_classes": 2}
    sets = {"base": ["base_val"], "novel": ["novel_val"]}
    return {"novel_val": {}, "base_val": {}, "extension": {**extension, "sets": sets, **changes}}


def alone(ap: float | None = 55.0, classes: str = "ab", **sets: Any) -> Files:
    """An evaluation.json of a model that was not extended."""
    by_class = {f"AP-{name}": ap for name in classes} if ap is not None else {}
    return {"novel_val": {"segm": {"AP": ap, "AP50": 70.0, **by_class}}, **sets}


def config(
    test: str = "novel_val", *, extend: bool = False, most: int = 300, stop: int = 0
) -> Files:
    return {
        "DATASETS": {"TEST": [test]},
        "MODEL": {"TRANSFER": {"EXTEND": extend}},
        "SOLVER": {"MAX_ITER": most},
        "TEST": {"EARLY_STOPPING": stop},
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, evaluation, config, iterations of the curve, *other files) -> a run's folder."""

    def run(
        name: str,
        evaluation: Files | None = None,
        config: Files | None = None,
        curve: tuple[int, ...] = (),
        *others: str,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if evaluation is not None:
            (folder / "evaluation.json").write_text(json.dumps(evaluation))
        if config is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if curve:
            rows = [{"iteration": iteration} for iteration in curve]
            (folder / "eval_history.json").write_text(json.dumps(rows))
        for other in others:
            (folder / other).touch()
        return folder

    return run


NAMES = [
    # folder, row, seed
    ("extended_s0", "extended", "0"),
    ("few_5shot_seed2", "few_5shot", "2"),
    ("few_seed12_5shot", "few_5shot", "12"),
    ("few-seed_3-5shot", "few-5shot", "3"),
    ("s3_extended", "extended", "3"),
    ("extendedseed3", "extended", "3"),
    # a folder a seed
    ("extended/s3", "extended", "3"),
    ("extended/seed3", "extended", "3"),
    ("extended/x/../s3", "extended", "3"),
    # the data's seed and the training's
    ("few_seed1_s2", "few", "1_2"),
    # no seeds
    ("extended", "extended", ""),
    ("runs3", "runs3", ""),
    ("few_5shot", "few_5shot", ""),
    ("scale_s0.5", "scale_s0.5", ""),
    ("resnet_s3x", "resnet_s3x", ""),
]


@pytest.mark.parametrize(("folder", "row", "seed"), NAMES)
def test_rows_and_seeds(folder: str, row: str, seed: str, tmp_path: Path) -> None:
    assert row_and_seed(tmp_path / folder) == (row, seed)


def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "extended_s1").symlink_to(tmp_path / "real")
    assert row_and_seed(tmp_path / "extended_s1") == ("extended", "1")


NOTHING = dict.fromkeys(["base", "all", "harmonic_mean", "forgetting", "before"])
FIGURES = [
    # evaluation, config, task, figures that are read
    (extended(), None, "segm", {"base": 40.0, "novel": 60.0, "all": 50.0, "harmonic_mean": 48.0}),
    (extended(), None, "segm", {"before": 44.0, "forgetting": 4.0}),
    (extended(), None, "bbox", {"novel": 70.0}),
    # no set annotates base classes
    (extended(None), None, "segm", {"base": None, "forgetting": None, "novel": 60.0}),
    (alone(), None, "segm", {"novel": 55.0, **NOTHING}),
    # another set that was looked at earlier does not count
    (alone(other={"segm": {"AP": 1.0}}), config(), "segm", {"novel": 55.0}),
    # nothing was detected
    (alone(None), config(), "segm", {"novel": 0.0}),
]


@pytest.mark.parametrize(("evaluation", "settings", "task", "expected"), FIGURES)
def test_figures(
    evaluation: Files, settings: Files | None, task: str, expected: Files, write: Write
) -> None:
    run = read_runs([write("run_s4", evaluation, settings)], task)[0]
    assert {name: run.figures[name] for name in expected} == expected
    assert (run.row, run.seed) == ("run", "4")


FINISHED = [
    # evaluation.json alone, as copied from another machine
    (None, (), ()),
    (config(), (100, 300), ()),
    # evaluated, never trained there
    (config(), (), ()),
    # trained longer than the config says, by an earlier command
    (config(most=200), (300,), ()),
    # ended early, as it was asked to
    (config(stop=2), (100, 200), ("model_final.safetensors",)),
]


@pytest.mark.parametrize(("settings", "curve", "others"), FINISHED)
def test_finished_runs(
    settings: Files | None, curve: tuple[int, ...], others: tuple[str, ...], write: Write
) -> None:
    assert read_runs([write("run", alone(), settings, curve, *others)], "segm")


UNFINISHED = [
    # evaluation, config, curve, other files, words of the error
    (None, None, (), (), r"late_s1 \(no evaluation.json\), .*; train first"),
    (alone(), config(), (0, 100), (), r"late_s1 \(iteration 100 of 300\)"),
    # exported, but killed before the last evaluation
    (alone(), config(), (100,), ("model_final.safetensors",), "iteration 100 of 300"),
    # it may yet end early
    (alone(), config(stop=2), (100,), (), "iteration 100 of 300"),
]


@pytest.mark.parametrize(("evaluation", "settings", "curve", "others", "words"), UNFINISHED)
def test_unfinished_runs_are_named(
    evaluation: Files | None,
    settings: Files | None,
    curve: tuple[int, ...],
    others: tuple[str, ...],
    words: str,
    write: Write,
) -> None:
    good = write("good_s0", alone(), config(), (300,))
    late = [write(f"late_s{k}", evaluation, settings, curve, *others) for k in (1, 2)]
    with pytest.raises(TransferError, match=words) as error:
        read_runs([good, *late], "segm")
    assert "late_s2" in str(error.value) and "good" not in str(error.value)


COMPARABLE = [
    (extended(), extended(20.0)),
    # the first extended run counts, also behind one that was not
    (alone(), extended()),
    (extended(), alone()),
    (alone(), alone(20.0)),
    # base and novel classes in the same two sets; the model of the novel ones has no use for one
    (extended(sets={"base": ["x", "novel_val"], "novel": ["x", "novel_val"]}), alone()),
    # a model that found nothing tells nothing of its classes
    (extended(), alone(None)),
    (extended(novel_classes=1), {"novel_val": {"segm": {"AP": 5.0}}}),
]


@pytest.mark.parametrize(("one", "two"), COMPARABLE)
def test_comparable_runs(one: Files, two: Files, write: Write) -> None:
    assert len(read_runs([write("a", one), write("b", two)], "segm")) == 2


ODD = [
    extended(sets={"base": ["other"], "novel": ["novel_val"]}),
    extended(sets={"base": ["base_val"], "novel": ["other"]}),
    extended(novel_classes=3),
    extended(base_classes=7),
    {"other": alone()["novel_val"]},
    alone(classes="abc"),
]


@pytest.mark.parametrize("odd", ODD)
def test_other_sets_are_named(odd: Files, write: Write) -> None:
    folders = [write("alone", alone()), write("first", extended()), write("odd_s0", odd)]
    folders.append(write("odd_s1", odd))
    with pytest.raises(TransferError, match="other sets or classes than") as error:
        read_runs(folders, "segm")
    words = str(error.value)
    assert "first (base classes on base_val; 2 novel on novel_val)" in words
    assert "odd_s0" in words and "odd_s1" in words and "alone" not in words


MISTAKES = [
    # evaluation.json as text, config, words
    ('{"novel_val": ', None, "cannot be read as JSON"),
    ("[1]", None, "holds a JSON list"),
    (json.dumps(extended(base_classes=None)), None, "does not tell base and novel classes apart"),
    (json.dumps(alone()), config(extend=True), "does not tell base and novel classes apart"),
    (json.dumps({"x": {"bbox": {"AP": 3.0}}}), None, "no masks; add --box"),
    (json.dumps(alone(other={})), None, "is tested on novel_val, other: expected one test set"),
    (json.dumps(alone()), config("gone"), "is tested on gone: expected one test set"),
    (json.dumps(alone()), {"VERSION": 2, "SOLVER": {"ITER": 3}}, "config.yaml cannot be read"),
]


@pytest.mark.parametrize(("evaluation", "settings", "words"), MISTAKES)
def test_what_cannot_be_read(
    evaluation: str, settings: Files | None, words: str, write: Write
) -> None:
    folder = write("run_s0", None, settings)
    (folder / "evaluation.json").write_text(evaluation)
    with pytest.raises(TransferError, match=words) as error:
        read_runs([folder], "segm")
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_config_is_one_line(write: Write) -> None:
    folder = write("run_s0", alone())
    (folder / "config.yaml").write_text("a: [1\nb: {")
    with pytest.raises(TransferError, match=r"config.yaml cannot be read") as error:
        read_runs([folder], "segm")
    assert "\n" not in str(error.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="gone_s0: no such folder"):
        read_runs([tmp_path / "gone_s0"], "segm")


@pytest.mark.parametrize(("name", "words"), [("run_s0", "with seed 0"), ("run", "without a seed")])
def test_one_run_a_seed(name: str, words: str, write: Write) -> None:
    folders = [write(f"{parent}/{name}", alone()) for parent in "ab"]
    with pytest.raises(TransferError, match=f"both a run 'run' {words}"):
        read_runs(folders, "segm")
