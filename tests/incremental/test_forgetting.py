"""Figures of base and novel classes are pycocotools' own, on images that really are repeated."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.evaluation.bootstrap import interval, resample
from transfer_maskrcnn.evaluation.matches import match_detections
from transfer_maskrcnn.incremental import forgetting
from transfer_maskrcnn.incremental.forgetting import MatchedSet, extension_figures, extension_lines

Content = dict[str, Any]


def make_truth(seed: int, images: int, categories: int, annotated: set[int]) -> Content:
    rng = np.random.default_rng(seed)
    boxes = [
        (image, category, [*map(float, rng.uniform(0, 50, 2)), *map(float, rng.uniform(9, 40, 2))])
        for image in range(images)
        for category in annotated
        for _ in range(rng.integers(0, 3))
    ]
    return {
        "images": [{"id": i, "height": 100, "width": 100} for i in range(images)],
        "categories": [{"id": k, "name": str(k)} for k in range(categories)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, k, b) in enumerate(boxes, 1)
        ],
    }


def detections(truth: Content, seed: int, noise: float) -> list[Content]:
    """Shaken objects; the more noise, the worse the model."""
    rng = np.random.default_rng(seed)
    return [
        {
            **{key: a[key] for key in ("image_id", "category_id")},
            "bbox": [v + float(rng.normal(0, noise)) for v in a["bbox"]],
            "score": float(rng.random()),
        }
        for a in truth["annotations"] * 2
    ]


def class_ap(truth: Content, results: list[Content], weights: np.ndarray) -> dict[int, float]:
    """pycocotools' AP of each class, image i being there ``weights[i]`` times."""

    def copies(records: list[Content], key: str) -> list[Content]:
        return [{**r, key: 1000 * r[key] + c} for r in records for c in range(weights[r[key]])]

    reference = COCO()
    reference.dataset = {
        "images": copies(truth["images"], "id"),
        "categories": truth["categories"],
        "annotations": [
            {**a, "id": n} for n, a in enumerate(copies(truth["annotations"], "image_id"), 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(copies(results, "image_id")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    ap = {k: 100 * precision[:, :, k].mean() for k in range(precision.shape[2])}
    return {k: v for k, v in ap.items() if v >= 0}


class Case:
    """A set with what two models find there."""

    def __init__(self, folder: Path, seed: int, annotated: set[int], images: int = 12):
        self.truth = make_truth(seed, images, 4, annotated)
        self.found = {
            "before": detections(self.truth, 1, 2.0),
            "after": detections(self.truth, 2, 4.0),
        }
        self.ones = np.ones(images, dtype=np.int64)
        folder.mkdir()
        (folder / "truth.json").write_text(json.dumps(self.truth))
        matched = {}
        for when, results in self.found.items():
            (folder / f"{when}.json").write_text(json.dumps(results))
            matched[when] = match_detections(folder / "truth.json", folder / f"{when}.json", "bbox")
        self.matches, self.before = matched["after"], matched["before"]

    def of(self, *names: str, before: bool = True) -> MatchedSet:
        return MatchedSet(names, self.matches, self.before if before else None)

    def ap(self, when: str, weights: np.ndarray | None = None) -> dict[int, float]:
        return class_ap(self.truth, self.found[when], self.ones if weights is None else weights)


@pytest.mark.slow
def test_figures_and_interval_are_those_of_coco(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base classes a, b and c in two sets, b in both: the first one's counts. d is novel."""
    monkeypatch.setattr(forgetting, "REPLICATES", 15)
    one, two = Case(tmp_path / "one", 3, {0, 1}), Case(tmp_path / "two", 4, {1, 2}, images=9)
    novel = Case(tmp_path / "novel", 5, {0, 3})
    sets = [one.of("a", "b", "c", "d"), two.of("a", "b", "c", "d")]
    figures = extension_figures(sets, [novel.of("a", "b", "c", "d", before=False)], "abc", "d")

    def base(when: str, weights: tuple[Any, Any] = (None, None)) -> float:
        first, second = one.ap(when, weights[0]), two.ap(when, weights[1])
        found = [first.get(0), first.get(1), second.get(2)]
        return float(np.mean([ap for ap in found if ap is not None]))

    added = novel.ap("after")[3]
    assert figures["base"] == pytest.approx(base("after"))
    assert figures["before"] == pytest.approx(base("before"))
    assert figures["before"] > figures["base"]
    assert figures["novel"] == pytest.approx(added)
    assert figures["all"] == pytest.approx((3 * base("after") + added) / 4)
    mean = 2 / (1 / base("after") + 1 / added)
    assert figures["harmonic_mean"] == pytest.approx(mean)
    assert figures["classes"]["c"]["before"] == pytest.approx(two.ap("before")[2])
    draws = list(zip(resample(12, 15, 0), resample(9, 15, 1), strict=True))
    low, high = interval(np.array([base("before", w) - base("after", w) for w in draws]))
    lost = {"ap": base("before") - base("after"), "low": low, "high": high}
    assert figures["forgetting"] == pytest.approx(lost)
    shown = {(1, a["image_id"]) for a in one.truth["annotations"]}
    shown |= {(2, a["image_id"]) for a in two.truth["annotations"] if a["category_id"] == 2}
    assert figures["images"] == len(shown)


def test_what_cannot_be_told(tmp_path: Path) -> None:
    case = Case(tmp_path / "case", 3, {0, 1})
    known, unknown = case.of(*"abcd"), case.of(*"abcd", before=False)
    # the source model is gone
    figures = extension_figures([unknown], [unknown], "a", "b")
    assert figures["forgetting"] is figures["before"] is figures["classes"]["a"]["before"] is None
    assert figures["base"] > 0 and figures["harmonic_mean"] > 0
    # one of two sets was not evaluated before
    other = Case(tmp_path / "other", 4, {2})
    assert (
        extension_figures([known, other.of(*"abcd", before=False)], [], "ac", "")["before"] is None
    )
    # no set annotates a base class; then the mean of all would be that of the novel ones
    figures = extension_figures([known], [known], "c", "b")
    assert figures["base"] is figures["all"] is figures["harmonic_mean"] is None
    assert figures["novel"] > 0 and figures["images"] == 0 and figures["classes"] == {}
    # nothing is novel
    figures = extension_figures([known], [known], "ab", "")
    assert figures["novel"] is figures["harmonic_mean"] is None
    assert figures["all"] == figures["base"]


def test_few_images_give_no_interval(tmp_path: Path) -> None:
    case = Case(tmp_path / "case", 3, {0}, images=4)
    lost = extension_figures([case.of(*"abcd")], [], "a", "")["forgetting"]
    assert lost["ap"] > 0 and lost["low"] is lost["high"] is None


def test_the_same_model_has_forgotten_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path / "case", 3, {0, 1})
    same = MatchedSet(tuple("abcd"), case.before, case.before)
    lost = extension_figures([same], [], "ab", "")["forgetting"]
    assert lost == {"ap": 0.0, "low": 0.0, "high": 0.0}


def extension(**figures: Any) -> dict[str, Any]:
    known = {
        "base": 15.93,
        "novel": 24.0,
        "all": 17.54,
        "harmonic_mean": 19.15,
        "before": 16.33,
        "forgetting": {"ap": 0.4, "low": 0.1, "high": 1.3},
        "images": 1200,
        "scored": {"base": 8, "novel": 2},
    }
    return {"segm": {**known, **figures}, "bbox": {}, "base_classes": 8, "novel_classes": 2}


def test_lines() -> None:
    assert extension_lines(extension()) == [
        "base classes (8): mask AP 15.9, before 16.3: forgot 0.4 (0.1 to 1.3)",
        "novel classes (2): mask AP 24.0",
        "all (10): mask AP 17.5; harmonic mean of base and novel 19.1",
    ]


def test_classes_that_no_test_set_has() -> None:
    lines = extension_lines(extension(scored={"base": 2, "novel": 2}))
    assert [line.partition(":")[0] for line in lines] == [
        "base classes (2 of 8)",
        "novel classes (2)",
        "all (4 of 10)",
    ]


CASES = [
    # the interval holds zero: a loss that rounds to nothing, a gain
    ({"ap": -0.04, "low": -0.5, "high": 1.3}, "before 16.3: 0.0 less (-0.5 to 1.3), which 1,200"),
    (
        {"ap": -0.6, "low": -1.5, "high": 0.3},
        "0.6 more (-0.3 to 1.5), which 1,200 images cannot tell",
    ),
    # not a single detection is another one
    ({"ap": 0.0, "low": 0.0, "high": 0.0}, "before 16.3: nothing is forgotten"),
    # better than before
    ({"ap": -2.0, "low": -3.1, "high": -1.2}, "gained 2.0 (1.2 to 3.1)"),
    # fewer than five images
    ({"ap": 2.0, "low": None, "high": None}, "forgot 2.0; 1,200 images cannot tell how surely"),
    # the source model is gone
    (None, "what was forgotten is not known without the source model"),
]


@pytest.mark.parametrize(("forgetting", "words"), CASES)
def test_forgetting_in_words(forgetting: Any, words: str) -> None:
    assert words in extension_lines(extension(forgetting=forgetting))[0]


def test_what_is_not_known() -> None:
    lines = extension_lines(extension(base=None, all=None, harmonic_mean=None, novel=None))
    assert lines == [
        "base classes (8): in no test set; DATASETS.TEST_BASE names sets that annotate them",
        "novel classes (2): in no set of DATASETS.TEST",
    ]
    assert extension_lines({"base_classes": None, "novel_classes": None, "sets": {}}) == []
    assert extension_lines({}) == []
