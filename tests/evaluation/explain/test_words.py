"""The words of an explanation: a sentence for each cause, notes, and a terminal's table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain import explain, explanation_text
from transfer_maskrcnn.evaluation.explain.causes import Blame, Facts
from transfer_maskrcnn.evaluation.explain.tide import KINDS, Cause
from transfer_maskrcnn.evaluation.explain.words import KIND_WORDS, sentence

Record = dict[str, Any]
Results = list[Record]

LITTLE = {"1000": {"all": 0.3}}
SIZES = {"all": 24, "small": 12, "medium": 8, "large": 4}
NO_SMALL = {"1000": {"all": 0.5, "small": 0.0, "medium": 1.0, "large": 1.0}}
FULL = {"median": 300.0, "most": 300}

SENTENCES: list[tuple[Cause, str, Facts, str]] = [
    # first cause, its size, facts, words of the sentence
    (Cause.CHANCE, "", Facts(), "next to nothing to do with the objects"),
    (Cause.UNTRAINED, "", Facts(untrained=("proposal_generator", "roi_heads.mask_head")),
     "weights of the RPN and the mask head were never trained"),
    (Cause.NOTHING_FOUND, "", Facts(), "With 12 detections 12 of 24 objects are found, as by"),
    (Cause.CLASSES, "", Facts(), "Class ids are permuted ('cat' is 'owl', 'owl' is 'cat'): give"),
    (Cause.SCORE_THRESHOLD, "", Facts(score_threshold=0.85),
     "nothing under 0.85 counts, and 50 % of the objects are not found"),
    (Cause.ALL_UNDER_THRESHOLD, "", Facts(score_threshold=0.99),
     "With 12 detections 12 of 24 objects are found: either the score threshold is too high "
     "(MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.99: nothing under 0.99 counts; AP needs low scores, "
     "too: set it to 0.05), or the weights are as good as random"),
    (Cause.MASKS_BEHIND, "", Facts(),
     "Boxes reach AP 50.5, masks only 50.0: masks are far worse than their boxes: look"),
    (Cause.INPUT_SIZE, "", Facts(min_size_test=400, min_size_train=(128, 96, 128)),
     "INPUT.MIN_SIZE_TEST is 400, far from the sizes that the model was trained with "
     "(INPUT.MIN_SIZE_TRAIN 96 to 128), and 50 % of the objects"),
    (Cause.DETECTIONS_PER_IMAGE, "", Facts(detections_per_image=3),
     "TEST.DETECTIONS_PER_IMAGE 3 is too low: images with more objects reach it, which leaves no "
     "detection for 7 of 24 objects: raise it well above 6"),
    (Cause.SUPPRESSION, "", Facts(nms_threshold=0.2),
     "MODEL.ROI_HEADS.NMS_THRESH_TEST 0.2 is too low: 5 of 24 objects are not found, and overlap"),
    (Cause.PROPOSALS, "", Facts(recall=LITTLE),
     "The RPN misses objects: 70 % have no proposal that fits (IoU 0.5): fit MODEL.ANCHOR"),
    (Cause.PROPOSALS, "small", Facts(recall=NO_SMALL, proposed_objects=SIZES),
     "The RPN misses small objects: 12 of 24 objects have no proposal that fits (IoU 0.5) "
     "(12 of 12 small, 0 of 8 medium, 0 of 4 large): fit MODEL.ANCHOR"),
    (Cause.PROPOSALS, "",
     Facts(recall=LITTLE, rpn_post_nms_topk=8, proposals={"median": 8.0, "most": 8}),
     "IoU 0.5): raise MODEL.RPN.POST_NMS_TOPK_TEST (now 8, which most images reach)."),
    (Cause.PROPOSALS, "", Facts(recall=LITTLE, rpn_pre_nms_topk=3, rpn_levels=5,
                                rpn_post_nms_topk=1000, proposals={"median": 9.0, "most": 13}),
     "raise MODEL.RPN.PRE_NMS_TOPK_TEST (now 3, for each feature map)"),
    (Cause.PROPOSALS, "", Facts(recall=LITTLE, rpn_nms_threshold=0.05, rpn_post_nms_topk=1000,
                                proposals={"median": 60.0, "most": 70}),
     "raise MODEL.RPN.NMS_THRESH (now 0.05"),
    (Cause.PROPOSALS, "", Facts(recall={**LITTLE, "100": {"all": 0.2}}, rpn_post_nms_topk=300,
                                proposals=FULL),
     "(now 300, which most images reach), fit MODEL.ANCHOR_GENERATOR.SIZES"),
    (Cause.PROPOSALS, "", Facts(recall={**LITTLE, "100": {"all": 0.3}}, rpn_post_nms_topk=300,
                                proposals=FULL),
     "IoU 0.5): fit MODEL.ANCHOR_GENERATOR.SIZES"),
    (Cause.MISSED, "", Facts(),
     "is missed objects: look for objects without annotation; train longer, or on more images"),
    (Cause.MISSED, "small", Facts(min_size_test=800),
     "Masks are fine, 40 % of the loss is missed small objects: try a larger INPUT.MIN_SIZE_TEST "
     "(now 800), in training, too."),
    (Cause.MISSED, "large", Facts(), "try larger MODEL.ANCHOR_GENERATOR.SIZES"),
    (Cause.CLASSIFICATION, "", Facts(),
     "classification (objects taken for another class): look for wrong labels"),
    (Cause.LOCALISATION, "small", Facts(),
     "localisation (boxes of small objects in the wrong place): look"),
    (Cause.MASK, "", Facts(), "is masks that are worse than their boxes: look whether polygons"),
    (Cause.DUPLICATE, "", Facts(nms_threshold=1.0),
     "duplicates (objects found more than once): try a lower MODEL.ROI_HEADS.NMS_THRESH_TEST "
     "(now 1)"),
    (Cause.BACKGROUND, "small", Facts(),
     "is background (small detections where there is no object): look"),
    (Cause.BOTH, "", Facts(), "(detections near objects of another class): train longer"),
    (Cause.INEXACT_BOXES, "", Facts(), "0 % of the loss is boxes that are not exact: look whether"),
    (Cause.INEXACT_MASKS, "", Facts(), "masks that are not exact: look whether polygons"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "size", "facts", "words"), SENTENCES)
def test_each_cause(
    cause: Cause, size: str, facts: Facts, words: str, truth: Record, perfect: Results
) -> None:
    """Said of a model of AP 50, whatever is true of it."""
    figures = explain(truth, [r for r in perfect if r["bbox"][2] > 32], task="segm").figures
    permuted = {"cat": "owl", "owl": "cat"}
    figures = replace(figures, ap=50.0, ap50=50.0, renaming=permuted, beyond=7, suppressed=5)
    assert words in sentence(figures, facts, [Blame(cause, 20.0, size)])


SHORT = [
    # first cause, what it is told to do first, and what then
    (Cause.CLASSIFICATION, "then look for wrong labels, classes in another order"),
    (Cause.CHANCE, "then look whether MODEL.WEIGHTS loaded"),
    (Cause.MASKS_BEHIND, "then look whether polygons are exact"),
    (Cause.PROPOSALS, "then fit MODEL.ANCHOR_GENERATOR.SIZES"),
    (Cause.BOTH, ""),
]


@pytest.mark.parametrize(("cause", "then"), SHORT)
def test_a_short_run_is_told_to_train_longer_before_anything_else(
    cause: Cause, then: str, truth: Record, perfect: Results
) -> None:
    figures = explain(truth, perfect[::2], task="bbox").figures
    for iterations, first in ((2, True), (499, True), (500, False), (None, False)):
        facts = Facts(iterations=iterations, recall=LITTLE)
        told = sentence(figures, facts, [Blame(cause, 20.0)])
        after = told.partition(f"train longer first ({iterations} iterations so far)")[2]
        assert bool(after) == first
        assert not first or (then in after and "train longer" not in after)


def test_every_cause_has_words() -> None:
    assert {cause for cause, *_ in SENTENCES} == set(Cause)
    assert tuple(KIND_WORDS) == KINDS


def test_no_cause_and_no_object(truth: Record, perfect: Results) -> None:
    assert explain(truth, perfect, task="segm").sentence == "Nothing to repair: AP is 100.0."
    truth["annotations"] = []
    assert "There is nothing to find" in explain(truth, perfect, task="segm").sentence


def test_what_is_found_but_not_exact_is_not_hidden(truth: Record, perfect: Results) -> None:
    figures = explain(truth, perfect[::2], task="bbox").figures
    nearly = replace(figures, ap=60.0, ap50=95.0, loose_boxes=35.0)
    assert sentence(nearly, Facts(), [Blame(Cause.MISSED, 4.0, "medium")]) == (
        "Nearly everything is found; 88 % of the loss is boxes that are found but not exact, as "
        "with most models; 10 % is missed medium objects: look for objects without annotation; "
        "train longer, or on more images."
    )
    many = replace(figures, ap=40.0, ap50=80.0, loose_boxes=25.0, loose_masks=15.0)
    assert sentence(many, Facts(), [Blame(Cause.MISSED, 20.0)]).startswith(
        "67 % of the loss is boxes and masks that are found but not exact, as with most models; 33 "
    )
    limited = [Blame(Cause.DETECTIONS_PER_IMAGE, 20.0)]
    assert "; 67 % of the loss is boxes and masks that are found" in (
        sentence(many, Facts(detections_per_image=3), limited)
    )
    assert "not exact" not in sentence(many, Facts(), [Blame(Cause.CHANCE, 20.0)])


def test_a_size_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 96**2]
    explanation = explain(truth, perfect, task="bbox")
    assert explanation.notes == [
        "No object is large (over 96² pixels), so there is no APl: COCO's own code prints -1 for "
        "it, detectron2 nan.",
    ]
    assert explanation.figures.sizes["large"].objects == 0


def test_a_class_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["categories"].append({"id": 11, "name": "emu"})
    explanation = explain(truth, perfect, task="bbox")
    assert explanation.notes == ["No object of class emu: no AP, and nothing that counts."]
    truth["categories"].append({"id": 12, "name": "yak"})
    (note,) = explain(truth, perfect, task="bbox").notes
    assert note.startswith("No object of class emu, yak: no AP")
    assert "emu" not in explanation.figures.class_ap50
    assert explanation.figures.ap50 == pytest.approx(100)


def test_more_objects_than_detections_are_allowed(truth: Record, perfect: Results) -> None:
    notes = explain(truth, perfect, task="bbox", facts=Facts(detections_per_image=5)).notes
    assert any("An image has 6 objects, but no more than 5 detections" in note for note in notes)


def test_recall_of_the_rpn_is_told(truth: Record, perfect: Results) -> None:
    facts = Facts(recall={"100": {"all": 0.5}, "1000": {"all": 0.75}}, proposals={"most": 300})
    (note,) = explain(truth, perfect, task="bbox", facts=facts).notes
    assert "with 100 proposals 50 %, with all (at most 300 an image) 75 % of the objects" in note


def test_a_setting_that_costs_ap_is_noted(truth: Record, perfect: Results) -> None:
    (note,) = explain(truth, perfect, task="bbox", facts=Facts(score_threshold=0.1)).notes
    assert "Detections of scores under 0.1 do not count" in note
    usual = Facts(score_threshold=0.05, nms_threshold=0.5)
    assert explain(truth, perfect, task="bbox", facts=usual).notes == []


def lines(truth: Record, results: Results) -> list[str]:
    explained = {task: explain(truth, results, task=task) for task in ("segm", "bbox")}
    return explanation_text("a_dataset", explained).splitlines()


def test_figures_stand_where_they_belong(truth: Record, perfect: Results) -> None:
    shown = lines(truth, [r for r in perfect if r["bbox"][2] > 32])
    assert shown[0].startswith("a_dataset: Masks are fine, 100 % of the loss is missed small")
    assert "Masks: AP 50.5, AP50 50.5; 24 objects, 12 detections" in shown
    (missed,) = (line.split() for line in shown[:20] if line.startswith("missed"))
    assert missed == ["missed", "12", "49.5", "49.5", "0.0", "0.0"]
    (found,) = (line.split() for line in shown[:20] if line.startswith("found/objects"))
    assert found == ["found/objects", "12/24", "0/12", "8/8", "4/4"]


@pytest.mark.parametrize("many", [True, False])
def test_no_line_is_longer_than_80(many: bool, truth: Record, perfect: Results) -> None:
    truth["categories"] = [{"id": c["id"], "name": "n" * 60} for c in truth["categories"]]
    for line in lines(truth, perfect[::2] * 500 if many else perfect):
        assert len(line) <= 80, line


def test_what_is_undefined_has_a_dash(truth: Record) -> None:
    truth["annotations"] = []
    shown = lines(truth, [])
    assert "Masks: AP -, AP50 -; 0 objects, 0 detections" in shown
    assert not any(line.startswith(("mistake", "class", "missed")) for line in shown)


def test_long_names_stay_different(truth: Record, perfect: Results) -> None:
    names = ["a_very_long_name_of_a_class_A", "a_very_long_name_of_a_class_B", "樹木と建物"]
    truth["categories"] = [
        {"id": c["id"], "name": name} for c, name in zip(truth["categories"], names, strict=True)
    ]
    shown = lines(truth, perfect)
    start = next(n for n, line in enumerate(shown) if line.startswith("class  "))
    rows = [line.split()[0] for line in shown[start + 2 : start + 5]]  # the title has two lines
    assert len(set(rows)) == 3
    assert [rows[k][-1] for k in (0, 1)] == ["A", "B"]
