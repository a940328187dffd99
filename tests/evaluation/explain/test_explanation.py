"""Faults planted in perfect predictions: the planted one is the first cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation.explain import explain
from transfer_maskrcnn.evaluation.explain.causes import Facts
from transfer_maskrcnn.evaluation.explain.tide import Cause

from .conftest import make_perfect, make_truth

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
SIZES = {"all": 24, "small": 12, "medium": 8, "large": 4}
ENOUGH = {"1000": {"all": 1.0, "small": 1.0, "medium": 1.0, "large": 1.0}}

FAULTS: list[tuple[str, Callable[[Results], Results], Facts, Cause, str]] = [
    # fault, predictions of the perfect ones, facts, first cause, and the size that stands out
    ("random weights", noise, Facts(), Cause.CHANCE, ""),
    ("an RPN that was not loaded", noise, Facts(untrained=("proposal_generator",)),
     Cause.UNTRAINED, ""),
    ("nothing found", lambda p: [], Facts(score_threshold=0.05), Cause.NOTHING_FOUND, ""),
    ("nothing over the threshold", lambda p: [], Facts(score_threshold=0.99),
     Cause.ALL_UNDER_THRESHOLD, ""),
    ("nothing over a threshold that is hardly one", lambda p: [], Facts(score_threshold=0.06),
     Cause.NOTHING_FOUND, ""),
    ("a detection elsewhere", lambda p: noise(p)[:1], Facts(score_threshold=0.05),
     Cause.NOTHING_FOUND, ""),
    ("classes in another order", lambda p: [{**r, "category_id": ROUND[r["category_id"]]}
                                            for r in p],
     Facts(), Cause.CLASSES, ""),
    ("a score threshold", lambda p: [r for r in p if r["score"] > 0.85],
     Facts(score_threshold=0.85, recall=ENOUGH), Cause.SCORE_THRESHOLD, ""),
    ("an RPN that misses", lambda p: p[::3], Facts(recall=LITTLE, score_threshold=0.05),
     Cause.PROPOSALS, ""),
    ("an RPN that misses small ones", lambda p: [r for r in p if not small(r)],
     Facts(recall=NO_SMALL, proposed_objects=SIZES), Cause.PROPOSALS, "small"),
    ("too few detections an image", lambda p: [r for n, r in enumerate(p) if n % 6 < 3],
     Facts(detections_per_image=3), Cause.DETECTIONS_PER_IMAGE, ""),
    ("images of another size than in training", lambda p: p[::2],
     Facts(min_size_test=400, min_size_train=(96, 128)), Cause.INPUT_SIZE, ""),
    ("a high threshold, and labels at random",
     lambda p: [two_labels(r, n) for n, r in enumerate(p) if r["score"] > 0.85],
     Facts(score_threshold=0.85), Cause.SCORE_THRESHOLD, ""),
    ("labels at random", lambda p: [two_labels(r, n) for n, r in enumerate(p)], Facts(),
     Cause.CLASSIFICATION, ""),
    ("boxes far off", lambda p: [moved(r, 0.5, 0.1) for r in p], Facts(), Cause.LOCALISATION, ""),
    ("boxes a little off", lambda p: [moved(r, 0.2, 0.0) for r in p], Facts(),
     Cause.INEXACT_BOXES, ""),
    ("boxes too wide", lambda p: [moved(r, 0, 0, scale=1.6) for r in p], Facts(),
     Cause.INEXACT_BOXES, ""),
    ("masks far too small", lambda p: [bad_mask(r) for r in p], Facts(), Cause.MASKS_BEHIND, ""),
    ("no NMS", duplicates, Facts(nms_threshold=1.0), Cause.DUPLICATE, ""),
    ("small objects missed", lambda p: [r for r in p if not small(r)],
     Facts(score_threshold=0.05, min_size_test=800, recall=ENOUGH), Cause.MISSED, "small"),
    ("false positives", background, Facts(), Cause.BACKGROUND, "small"),
]  # fmt: skip


@pytest.mark.parametrize("case", FAULTS, ids=[case[0] for case in FAULTS])
def test_the_planted_fault_comes_first(case: Any, truth: Record, perfect: Results) -> None:
    _, plant, facts, cause, size = case
    explanation = explain(truth, plant(perfect), task="segm", facts=facts)
    first = explanation.causes[0]
    assert first.name is cause, explanation.sentence
    assert not size or first.size == size


def test_what_the_figures_tell(truth: Record, perfect: Results) -> None:
    figures = explain(truth, [r for r in perfect if not small(r)], task="segm").figures
    assert figures.sizes["small"].found == 0
    assert figures.repairs[Cause.MISSED].gain == pytest.approx(100 - 50.5, abs=0.5)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_a_perfect_model(task: str, truth: Record, perfect: Results) -> None:
    explanation = explain(truth, perfect, task=task)
    assert explanation.causes == [] and explanation.figures.ap == 100
    assert explanation.examples == {}


def test_two_classes_swapped_among_good_ones(truth: Record, perfect: Results) -> None:
    swapped = {3: 5, 5: 3, 9: 9}
    results = [{**r, "category_id": swapped[r["category_id"]]} for r in perfect]
    explanation = explain(truth, results, task="bbox")
    assert explanation.causes[0].name is Cause.CLASSES
    assert explanation.figures.renaming == {"cat": "dog", "dog": "cat"}


def test_one_class_is_never_permuted(truth: Record, perfect: Results) -> None:
    truth["categories"] = truth["categories"][:1]
    for record in (*truth["annotations"], *perfect):
        record["category_id"] = 3
    assert explain(truth, perfect, task="bbox").causes == []
    explanation = explain(truth, perfect[::2], task="bbox")
    assert explanation.figures.renaming == {}
    assert explanation.causes[0].name is Cause.MISSED


def test_a_ground_truth_without_objects(truth: Record, perfect: Results) -> None:
    truth["annotations"] = []
    explanation = explain(truth, perfect, task="segm")
    assert explanation.causes == [] and explanation.figures.objects == 0
    assert math.isnan(explanation.figures.ap)


def test_crowds_are_neither_right_nor_wrong(truth: Record, perfect: Results) -> None:
    for annotation in truth["annotations"][:2]:
        annotation["iscrowd"] = 1
    crowded = [*perfect, {**perfect[0], "score": 0.99}]
    explanation = explain(truth, crowded, task="segm")
    assert explanation.figures.ap50 == pytest.approx(100)
    assert explanation.figures.objects == len(truth["annotations"]) - 2


def test_what_is_found_but_not_exact_is_told(truth: Record, perfect: Results) -> None:
    loose = [moved(r, 0, 0, scale=1.3) for r in perfect]  # IoU 0.77: 6 of 10 thresholds hold
    found = [r for n, r in enumerate(loose) if n != 3]
    explanation = explain(truth, found, task="bbox")
    assert explanation.causes[0].name is Cause.MISSED
    assert explanation.figures.loose_boxes > explanation.causes[0].gain > 0
    limited = [r for n, r in enumerate(loose) if n % 6 < 4]
    first = explain(truth, limited, task="bbox", facts=Facts(detections_per_image=4)).causes[0]
    assert first.name is Cause.DETECTIONS_PER_IMAGE


def test_examples_point_at_detections_and_objects(truth: Record, perfect: Results) -> None:
    results = [moved(r, 0.5, 0.1) for r in perfect]
    examples = explain(truth, results, task="bbox").examples[Cause.LOCALISATION]
    assert len({example["image_id"] for example in examples}) == 4
    for example in examples:
        assert example["detection"] == example["object"]  # the results are in the objects' order
        assert results[example["detection"]]["image_id"] == example["image_id"]
    missed = explain(truth, [], task="bbox").examples[Cause.MISSED]
    assert [truth["annotations"][e["object"]]["area"] for e in missed] == [130.0**2] * 4
    assert missed[0] == {"image_id": 7, "file_name": "0.png", "detection": None, "object": 5}


def test_the_worst_images_are_those_without_which_ap_is_higher(
    truth: Record, perfect: Results
) -> None:
    spoiled = [moved(r, 2.0, 0.0) if r["image_id"] == 9 else r for r in perfect]
    spoiled = [r for r in spoiled if r["image_id"] != 8 or r["bbox"][2] > 32]  # three lost
    worst = explain(truth, spoiled, task="bbox").worst_images
    assert [image["file_name"] for image in worst] == ["2.png", "1.png"]
    # two of those that were moved reach a neighbour of another class
    assert worst[0]["mistakes"] == {"background": 4, "both": 2, "missed": 6}
    assert worst[1]["mistakes"] == {"missed": 3} and worst[1]["objects"] == 6
    # as the evaluation of all other images says
    others = [r for r in spoiled if r["image_id"] != 9]
    rest = {**truth, "images": [i for i in truth["images"] if i["id"] != 9]}
    rest["annotations"] = [a for a in truth["annotations"] if a["image_id"] != 9]
    without, with_it = (
        explain(t, r, task="bbox").figures.ap for t, r in ((rest, others), (truth, spoiled))
    )
    assert worst[0]["gain"] == pytest.approx(without - with_it)
    assert explain(truth, perfect, task="bbox").worst_images == []


def test_the_interval_holds_ap_and_needs_some_images() -> None:
    truth = make_truth(12)
    found = [r for r in make_perfect(truth) if r["image_id"] % 3 or r["bbox"][2] > 32]
    figures = explain(truth, found, task="bbox").figures
    low, high = figures.ap_interval
    assert low < figures.ap < high and high - low > 2
    few = make_truth(4)
    assert np.isnan(explain(few, make_perfect(few), task="bbox").figures.ap_interval).all()


STRANGERS = [
    ({"image_id": 99}, "results of image 99, and 0 more, that the ground truth does"),
    ({"category_id": 4}, "results of category 4, and 0 more, that the ground truth does"),
]


@pytest.mark.parametrize(("change", "message"), STRANGERS)
def test_results_of_another_evaluation(
    change: Record, message: str, truth: Record, perfect: Results
) -> None:
    with pytest.raises(DatasetError, match=message):
        explain(truth, [{**perfect[0], **change}], task="bbox")
