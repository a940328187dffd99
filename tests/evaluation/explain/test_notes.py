"""Sentences below the figures."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain.explanation import explain
from transfer_maskrcnn.evaluation.explain.facts import Facts

Record = dict[str, Any]
Results = list[Record]


def test_a_size_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 96**2]
    explanation = explain(truth, perfect, task="bbox")
    assert explanation.notes == (
        "No object is large (over 96² pixels), so there is no APl: COCO's own code prints -1 for "
        "it, detectron2 nan.",
    )
    assert explanation.figures.sizes["large"].objects == 0


def test_a_class_without_objects_in_words(truth: Record, perfect: Results) -> None:
    truth["categories"].append({"id": 11, "name": "emu"})
    explanation = explain(truth, perfect, task="bbox")
    assert explanation.notes == ("No object of class emu: it has no AP, and does not count.",)
    truth["categories"].append({"id": 12, "name": "yak"})
    (note,) = explain(truth, perfect, task="bbox").notes
    assert note == "No object of class emu, yak: they have no AP, and do not count."
    assert "emu" not in explanation.figures.class_ap50
    assert explanation.figures.ap50 == pytest.approx(100)


def test_equal_scores_are_named(truth: Record, perfect: Results) -> None:
    results = [{**r, "score": 0.5} for r in perfect[::2]]
    explanation = explain(truth, results, task="bbox")
    assert "All scores are equal: AP depends on the order of the images." in explanation.notes


def test_more_objects_than_detections_are_allowed(truth: Record, perfect: Results) -> None:
    notes = explain(truth, perfect, task="bbox", facts=Facts(detections_per_image=5)).notes
    assert any("An image has 6 objects, but no more than 5 detections" in note for note in notes)


RECALLS = [
    # the most proposals of an image, what is said of them
    (None, "with 100 proposals 50 %, with up to 1000 75 % of the objects"),
    (1000, "with 100 proposals 50 %, with up to 1000 75 % of the objects"),
    (300, "with 100 proposals 50 %, with all (at most 300) 75 % of the objects"),
    (8, "RPN: with all proposals (at most 8 an image) 75 % of the objects"),
]


@pytest.mark.parametrize(("most", "words"), RECALLS)
def test_recall_of_the_rpn_is_told(
    most: int | None, words: str, truth: Record, perfect: Results
) -> None:
    proposals = {} if most is None else {"most": most}
    facts = Facts(recall={"100": {"all": 0.5}, "1000": {"all": 0.75}}, proposals=proposals)
    (note,) = explain(truth, perfect, task="bbox", facts=facts).notes
    assert words in note


def test_settings_that_cost_ap_are_noted(truth: Record, perfect: Results) -> None:
    facts = Facts(score_threshold=0.1, nms_threshold=0.2)
    threshold, nms = explain(truth, perfect, task="bbox", facts=facts).notes
    assert "Detections of scores under 0.1 do not count" in threshold
    assert "overlap by more than 0.2 one goes" in nms
    usual = Facts(score_threshold=0.05, nms_threshold=0.5)
    assert explain(truth, perfect, task="bbox", facts=usual).notes == ()
