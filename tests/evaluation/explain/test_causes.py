"""Settings and sizes are blamed for a reason only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from transfer_maskrcnn.evaluation.explain import explain
from transfer_maskrcnn.evaluation.explain.causes import Facts
from transfer_maskrcnn.evaluation.explain.tide import Cause

Record = dict[str, Any]
Results = list[Record]

INNOCENT: list[tuple[str, Callable[[Results], Results], Facts, Cause]] = [
    # what is there, predictions of the perfect ones, facts, a cause that must not be first
    ("a threshold, and hardly anything lost", lambda p: p[:-2], Facts(score_threshold=0.2),
     Cause.SCORE_THRESHOLD),
    ("high scores alone tell no threshold", lambda p: p[::2], Facts(), Cause.SCORE_THRESHOLD),
    ("images with fewer objects than detections", lambda p: p[::2],
     Facts(detections_per_image=10), Cause.DETECTIONS_PER_IMAGE),
    ("a limit that no image reaches", lambda p: [r for n, r in enumerate(p) if n % 6 < 2],
     Facts(detections_per_image=3), Cause.DETECTIONS_PER_IMAGE),
    ("a low NMS threshold, and no neighbours", lambda p: p[::2], Facts(nms_threshold=0.0),
     Cause.SUPPRESSION),
    ("a size that is near enough", lambda p: p[::2],
     Facts(min_size_test=200, min_size_train=(128,)), Cause.INPUT_SIZE),
    ("images as they are", lambda p: p[::2], Facts(min_size_test=0, min_size_train=(128,)),
     Cause.INPUT_SIZE),
    ("an RPN that misses less than is lost", lambda p: p[:6],
     Facts(recall={"1000": {"all": 0.9}}), Cause.PROPOSALS),
]  # fmt: skip


@pytest.mark.parametrize("case", INNOCENT, ids=[case[0] for case in INNOCENT])
def test_settings_are_not_blamed_without_a_reason(
    case: Any, truth: Record, perfect: Results
) -> None:
    _, change, facts, cause = case
    explanation = explain(truth, change(perfect), task="segm", facts=facts)
    assert cause not in [found.name for found in explanation.causes]


def test_neighbours_that_nms_removed(truth: Record, perfect: Results) -> None:
    for first, second in zip(truth["annotations"][::6], truth["annotations"][1::6], strict=True):
        x, y, width, height = first["bbox"]
        second["bbox"] = [x + 0.6 * width, y, width, height]
        second["category_id"] = first["category_id"]
    results = [r for n, r in enumerate(perfect) if n % 6 != 1]
    facts = Facts(nms_threshold=0.2)
    explanation = explain(truth, results, task="bbox", facts=facts)
    assert explanation.causes[0].name is Cause.SUPPRESSION
    assert explanation.figures.suppressed == 4
    assert explanation.causes[0].gain == pytest.approx(100 * 4 / 24)
    explanation = explain(truth, results, task="bbox", facts=Facts(nms_threshold=0.5))
    assert explanation.causes[0].name is Cause.MISSED, "0.5 is usual"
    explanation = explain(truth, results, task="bbox", facts=Facts(nms_threshold=0.28))
    assert explanation.causes[0].name is Cause.MISSED, "they overlap by 0.25"


def test_a_size_is_named_for_more_than_its_number(truth: Record, perfect: Results) -> None:
    """Three in four of each size are missed: most are small, because most objects are."""
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 65**2]
    found = [r for r in perfect if r["bbox"][2] < 65 and r["image_id"] == 7]
    missed = explain(truth, found, task="bbox").causes[0]
    assert (missed.name, missed.size) == (Cause.MISSED, "")
    none = explain(truth, [], task="bbox").figures.repairs[Cause.MISSED]
    assert all(math.isnan(gain) for gain in none.by_size.values()), "AP50 is 0 with each of them"
