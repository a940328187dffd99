"""Faults planted in perfect predictions: the sentence names the planted one first."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation.explain.explanation import explain
from transfer_maskrcnn.evaluation.explain.facts import Facts

Record = dict[str, Any]
Results = list[Record]
ROUND = {3: 5, 5: 9, 9: 3}


def rectangle(x: float, y: float, width: float, height: float) -> Record:
    box = [float(v) for v in (x, y, width, height)]
    (rle,) = mask_util.frPyObjects(np.array([box]), 320, 480)  # the images' height and width
    return {"bbox": box, "segmentation": {**rle, "counts": rle["counts"].decode()}}


def moved(result: Record, dx: float, dy: float, scale: float = 1.0) -> Record:
    x, y, width, height = result["bbox"]
    return {**result, **rectangle(x + dx * width, y + dy * height, width * scale, height)}


def small(result: Record) -> bool:
    return bool(result["bbox"][2] < 32)


def noise(perfect: Results) -> Results:
    """Boxes that have nothing to do with any object, with scores as of random weights."""
    rng = np.random.default_rng(0)
    base = perfect[0]
    spots = [(x, 285 + rng.integers(10)) for x in range(0, 280, 5)]
    return [
        {**base, **rectangle(x, y, 12, 12), "image_id": 7 + i, "category_id": c, "score": 0.3}
        for i in range(4)
        for c, (x, y) in zip([3, 5, 9] * 20, spots, strict=False)
    ]


def background(perfect: Results) -> Results:
    found = [{**r, "score": r["score"] / 2} for r in perfect]
    return found + [{**r, "score": 0.9} for r in noise(perfect)[:40]]


def two_labels(result: Record, number: int) -> Record:
    """Every other detection has another class, without any system."""
    wrong = (3, 5, 9)[number % 3]
    return {**result, "category_id": wrong if number % 2 else result["category_id"]}


def duplicates(perfect: Results) -> Results:
    """Three times each, and the copies of one object score more than the next object."""
    return [
        {**r, "score": 0.95 - 0.01 * n} for n, r in enumerate(p for p in perfect for _ in "123")
    ]


def bad_mask(result: Record) -> Record:
    x, y, width, height = result["bbox"]
    segmentation = rectangle(x, y, width / 3, height)["segmentation"]
    return {**result, "segmentation": segmentation}


LITTLE = {"1000": {"all": 0.3, "small": 0.2, "medium": 0.4, "large": 0.5}}
NO_SMALL = {"1000": {"all": 0.5, "small": 0.0, "medium": 1.0, "large": 1.0}}
ENOUGH = {"1000": {"all": 1.0, "small": 1.0, "medium": 1.0, "large": 1.0}}

FAULTS: list[tuple[str, Callable[[Results], Results], Facts, str, str]] = [
    # fault, predictions of the perfect ones, facts, first cause, words of the sentence
    ("random weights", noise, Facts(), "chance", "next to nothing to do with"),
    ("an RPN that was not loaded", noise, Facts(untrained=("proposal_generator",)), "untrained",
     "weights of the RPN were never trained"),
    ("nothing found", lambda p: [], Facts(score_threshold=0.05), "nothing found", "Nothing at all"),
    ("nothing over the threshold", lambda p: [], Facts(score_threshold=0.99), "score threshold",
     "too high: nothing under 0.99"),
    ("classes in another order", lambda p: [{**r, "category_id": ROUND[r["category_id"]]}
                                            for r in p],
     Facts(), "classes", "'cat' is 'owl'"),
    ("a score threshold", lambda p: [r for r in p if r["score"] > 0.85],
     Facts(score_threshold=0.85, recall=ENOUGH), "score threshold", "nothing under 0.85 counts"),
    ("an RPN that misses", lambda p: p[::3], Facts(recall=LITTLE, score_threshold=0.05),
     "proposals", "The RPN misses objects: 70 % have no proposal"),
    ("an RPN that misses small ones", lambda p: [r for r in p if not small(r)],
     Facts(recall=NO_SMALL), "proposals", "The RPN misses small objects: 50 %"),
    ("labels at random", lambda p: [two_labels(r, n) for n, r in enumerate(p)], Facts(),
     "classification", "taken for another class"),
    ("boxes far off", lambda p: [moved(r, 0.5, 0.1) for r in p], Facts(),
     "localisation", "in the wrong place"),
    ("boxes a little off", lambda p: [moved(r, 0.2, 0.0) for r in p], Facts(),
     "localisation", "too loose"),
    ("boxes too wide", lambda p: [moved(r, 0, 0, scale=1.6) for r in p], Facts(),
     "localisation", "too loose"),
    ("masks far too small", lambda p: [bad_mask(r) for r in p], Facts(),
     "mask", "worse than their boxes"),
    ("no NMS", duplicates, Facts(nms_threshold=1.0), "duplicate",
     "try a lower MODEL.ROI_HEADS.NMS_THRESH_TEST (now 1)"),
    ("small objects missed", lambda p: [r for r in p if not small(r)],
     Facts(score_threshold=0.05, min_size_test=800, recall=ENOUGH), "missed",
     "missed small objects: try a larger INPUT.MIN_SIZE_TEST (now 800)"),
    ("false positives", background, Facts(), "background", "detections where there is no object"),
]  # fmt: skip


@pytest.mark.parametrize("case", FAULTS, ids=[case[0] for case in FAULTS])
def test_the_planted_fault_comes_first(case: Any, truth: Record, perfect: Results) -> None:
    _, plant, facts, cause, words = case
    explanation = explain(truth, plant(perfect), task="segm", facts=facts)
    assert explanation.causes[0].name == cause, explanation.sentence
    assert words in explanation.sentence
    json.dumps(explanation.as_json())


def test_the_example_of_the_design(truth: Record, perfect: Results) -> None:
    explanation = explain(truth, [r for r in perfect if not small(r)], task="segm")
    assert explanation.sentence == (
        "Masks are fine, 100 % of the loss is missed small objects: try a larger "
        "INPUT.MIN_SIZE_TEST, in training, too."
    )
    assert explanation.figures.sizes["small"].found == 0
    assert explanation.figures.repairs["missed"].gain == pytest.approx(100 - 50.5, abs=0.5)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_a_perfect_model(task: str, truth: Record, perfect: Results) -> None:
    explanation = explain(truth, perfect, task=task)
    assert explanation.sentence == "Nothing to repair: AP is 100.0."
    assert explanation.causes == ()
    assert explanation.examples == {}


def test_two_classes_swapped_among_good_ones(truth: Record, perfect: Results) -> None:
    swapped = {3: 5, 5: 3, 9: 9}
    results = [{**r, "category_id": swapped[r["category_id"]]} for r in perfect]
    explanation = explain(truth, results, task="bbox")
    assert explanation.causes[0].name == "classes"
    assert explanation.figures.renaming == {"cat": "dog", "dog": "cat"}
    assert explanation.figures.ap50 + explanation.figures.renaming_gain == pytest.approx(100)


def test_one_class_is_never_permuted(truth: Record, perfect: Results) -> None:
    truth["categories"] = truth["categories"][:1]
    for record in (*truth["annotations"], *perfect):
        record["category_id"] = 3
    assert explain(truth, perfect, task="bbox").causes == ()
    explanation = explain(truth, perfect[::2], task="bbox")
    assert explanation.figures.renaming == {}
    assert explanation.causes[0].name == "missed"


def test_a_size_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 96**2]
    explanation = explain(truth, perfect, task="bbox")
    assert any("No object is large (over 96² pixels): COCO's APl is -1" in n for n in
               explanation.notes)  # fmt: skip
    assert explanation.figures.sizes["large"].objects == 0


def test_a_class_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["categories"].append({"id": 11, "name": "emu"})
    explanation = explain(truth, perfect, task="bbox")
    assert any("No object of class emu" in note for note in explanation.notes)
    assert "emu" not in explanation.figures.class_ap50
    assert explanation.figures.ap50 == pytest.approx(100)


def test_a_ground_truth_without_objects(truth: Record, perfect: Results) -> None:
    truth["annotations"] = []
    explanation = explain(truth, perfect, task="segm")
    assert "There is nothing to find" in explanation.sentence
    assert math.isnan(explanation.figures.ap)


def test_crowds_are_neither_right_nor_wrong(truth: Record, perfect: Results) -> None:
    for annotation in truth["annotations"][:2]:
        annotation["iscrowd"] = 1
    crowded = [*perfect, {**perfect[0], "score": 0.99}]
    explanation = explain(truth, crowded, task="segm")
    assert explanation.figures.ap50 == pytest.approx(100)
    assert explanation.figures.objects == len(truth["annotations"]) - 2


def test_equal_scores_are_named(truth: Record, perfect: Results) -> None:
    results = [{**r, "score": 0.5} for r in [*perfect[::2], *noise(perfect)[:5]]]
    explanation = explain(truth, results, task="bbox")
    assert "All scores are equal: AP depends on the order of the images." in explanation.notes


def test_more_objects_than_detections_are_allowed(truth: Record, perfect: Results) -> None:
    notes = explain(truth, perfect, task="bbox", facts=Facts(detections_per_image=5)).notes
    assert any("An image has 6 objects, but no more than 5 detections" in note for note in notes)


def test_recall_of_the_rpn_is_told(truth: Record, perfect: Results) -> None:
    facts = Facts(recall={"100": {"all": 0.5}, "1000": {"all": 0.75}})
    notes = explain(truth, perfect, task="bbox", facts=facts).notes
    assert any("with 100 proposals 50 % of the objects" in n and "1000 75 %" in n for n in notes)


def test_examples_point_at_detections_and_objects(truth: Record, perfect: Results) -> None:
    results = [moved(r, 0.5, 0.1) for r in perfect]
    examples = explain(truth, results, task="bbox").examples["localisation"]
    assert len({example.image_id for example in examples}) == 4
    for example in examples:
        assert example.detection is not None and example.object is not None
        assert example.detection == example.object  # the results are in the objects' order
        assert results[example.detection]["image_id"] == example.image_id
    missed = explain(truth, [], task="bbox").examples["missed"]
    assert [truth["annotations"][e.object]["area"] for e in missed] == [130.0**2] * 4


STRANGERS = [
    ({"image_id": 99}, "results of image 99, which the ground truth lacks"),
    ({"category_id": 4}, "results of category 4, which the ground truth lacks"),
]


@pytest.mark.parametrize(("change", "message"), STRANGERS)
def test_results_of_another_evaluation(
    change: Record, message: str, truth: Record, perfect: Results
) -> None:
    with pytest.raises(DatasetError, match=message):
        explain(truth, [{**perfect[0], **change}], task="bbox")
