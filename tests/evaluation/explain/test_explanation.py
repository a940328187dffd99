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
SIZES = {"all": 24, "small": 12, "medium": 8, "large": 4}
ENOUGH = {"1000": {"all": 1.0, "small": 1.0, "medium": 1.0, "large": 1.0}}

FAULTS: list[tuple[str, Callable[[Results], Results], Facts, str, str]] = [
    # fault, predictions of the perfect ones, facts, first cause, words of the sentence
    ("random weights", noise, Facts(), "chance", "next to nothing to do with"),
    ("an RPN that was not loaded", noise, Facts(untrained=("proposal_generator",)), "untrained",
     "weights of the RPN were never trained"),
    ("nothing found", lambda p: [], Facts(score_threshold=0.05), "nothing found", "Nothing at all"),
    ("nothing over the threshold", lambda p: [], Facts(score_threshold=0.99), "score threshold",
     "(MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.99: nothing under 0.99 counts; AP needs low scores, "
     "too: set it to 0.05), or the weights are as good as random"),
    ("nothing over a threshold that is hardly one", lambda p: [], Facts(score_threshold=0.06),
     "nothing found", "Nothing at all is detected"),
    ("a detection elsewhere", lambda p: noise(p)[:1], Facts(score_threshold=0.05),
     "nothing found", "None of the 24 objects is found, with 1 detection in all"),
    ("classes in another order", lambda p: [{**r, "category_id": ROUND[r["category_id"]]}
                                            for r in p],
     Facts(), "classes", "'cat' is 'owl'"),
    ("a score threshold", lambda p: [r for r in p if r["score"] > 0.85],
     Facts(score_threshold=0.85, recall=ENOUGH), "score threshold", "nothing under 0.85 counts"),
    ("an RPN that misses", lambda p: p[::3], Facts(recall=LITTLE, score_threshold=0.05),
     "proposals", "The RPN misses objects: 70 % have no proposal"),
    ("an RPN that misses small ones", lambda p: [r for r in p if not small(r)],
     Facts(recall=NO_SMALL, proposed_objects=SIZES), "proposals",
     "The RPN misses small objects: 12 of 24 objects have no proposal that fits (IoU 0.5) "
     "(12 of 12 small, 0 of 8 medium, 0 of 4 large): fit MODEL.ANCHOR"),
    ("too few proposals", lambda p: [r for r in p if not small(r)],
     Facts(recall=NO_SMALL, rpn_post_nms_topk=8, proposals={"median": 8.0, "most": 8}),
     "proposals", "IoU 0.5): raise MODEL.RPN.POST_NMS_TOPK_TEST (now 8, which most images reach)."),
    ("too few boxes for the RPN's NMS", lambda p: p[::3],
     Facts(recall=LITTLE, rpn_pre_nms_topk=3, rpn_levels=5, rpn_post_nms_topk=1000,
           proposals={"median": 9.0, "most": 13}),
     "proposals", "raise MODEL.RPN.PRE_NMS_TOPK_TEST (now 3, for each feature map)"),
    ("an RPN's NMS that removes neighbours", lambda p: p[::3],
     Facts(recall=LITTLE, rpn_nms_threshold=0.05, rpn_post_nms_topk=1000,
           proposals={"median": 60.0, "most": 70}),
     "proposals", "raise MODEL.RPN.NMS_THRESH (now 0.05"),
    ("more proposals would find more", lambda p: p[::3],
     Facts(recall={**LITTLE, "100": {"all": 0.2}}, rpn_post_nms_topk=300,
           proposals={"median": 300.0, "most": 300}),
     "proposals", "(now 300, which most images reach), fit MODEL.ANCHOR_GENERATOR.SIZES"),
    ("more proposals would find no more", lambda p: p[::3],
     Facts(recall={**LITTLE, "100": {"all": 0.3}}, rpn_post_nms_topk=300,
           proposals={"median": 300.0, "most": 300}),
     "proposals", "IoU 0.5): fit MODEL.ANCHOR_GENERATOR.SIZES"),
    ("too few detections an image", lambda p: [r for n, r in enumerate(p) if n % 6 < 3],
     Facts(detections_per_image=3), "detections per image",
     "TEST.DETECTIONS_PER_IMAGE 3 is too low: 4 images with more objects reach it, which leaves "
     "no detection for 12 of 24 objects: raise it well above 6"),
    ("images of another size than in training", lambda p: p[::2],
     Facts(min_size_test=400, min_size_train=(96, 128)), "input size",
     "INPUT.MIN_SIZE_TEST is 400, far from the sizes that the model was trained with "
     "(INPUT.MIN_SIZE_TRAIN 96 to 128), and 50 % of the objects"),
    ("a high threshold, and labels at random",
     lambda p: [two_labels(r, n) for n, r in enumerate(p) if r["score"] > 0.85],
     Facts(score_threshold=0.85), "score threshold", "nothing under 0.85 counts, and 67 %"),
    ("labels at random", lambda p: [two_labels(r, n) for n, r in enumerate(p)], Facts(),
     "classification", "taken for another class"),
    ("boxes far off", lambda p: [moved(r, 0.5, 0.1) for r in p], Facts(),
     "localisation", "in the wrong place"),
    ("boxes a little off", lambda p: [moved(r, 0.2, 0.0) for r in p], Facts(),
     "localisation", "Nearly everything is found; 96 % of the loss is boxes that are not exact"),
    ("boxes too wide", lambda p: [moved(r, 0, 0, scale=1.6) for r in p], Facts(),
     "localisation", "boxes that are not exact: look whether annotated boxes are exact"),
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


def test_what_is_found_but_not_exact_is_not_hidden(truth: Record, perfect: Results) -> None:
    loose = [moved(r, 0, 0, scale=1.3) for r in perfect]  # IoU 0.77: 6 of 10 thresholds hold
    found = [r for n, r in enumerate(loose) if n != 3]
    sentence = explain(truth, found, task="bbox").sentence
    assert sentence.startswith("Nearly everything is found; ")
    assert "% of the loss is boxes that are not exact" in sentence
    assert "; 10 % is missed medium objects: train longer" in sentence
    many = explain(truth, [r for n, r in enumerate(loose) if n % 5], task="bbox")
    assert many.figures.ap50 < 90 and many.causes[0].name == "missed"
    assert "of the loss is boxes that are found but not exact, as with most models; " in (
        many.sentence
    )
    limited = [r for n, r in enumerate(loose) if n % 6 < 4]
    sentence = explain(truth, limited, task="bbox", facts=Facts(detections_per_image=4)).sentence
    assert sentence.startswith("TEST.DETECTIONS_PER_IMAGE 4 is too low")


def test_ap_is_that_of_the_evaluation(truth: Record, perfect: Results) -> None:
    loose = [moved(r, 0, 0, scale=1.3) for r in perfect]
    own = explain(truth, loose, task="bbox").figures
    known = {"AP": own.ap + 1, "AP50": own.ap50}
    figures = explain(truth, loose, task="bbox", facts=Facts(evaluated={"bbox": known})).figures
    assert figures.ap == figures.box_ap == own.ap + 1
    assert figures.loose == pytest.approx(own.ap50 - own.ap - 1)
    other = {"bbox": {**known, "AP50": own.ap50 - 3}}
    figures = explain(truth, loose, task="bbox", facts=Facts(evaluated=other)).figures
    assert figures.ap == own.ap, "those are figures of other results"


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
