"""What a terminal says of old and new classes."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.incremental.forgetting_words import extension_lines


def extension(**figures: Any) -> dict[str, Any]:
    known = {
        "old": 15.93,
        "new": 24.0,
        "all": 17.54,
        "harmonic_mean": 19.15,
        "before": 16.33,
        "forgetting": {"ap": 0.4, "low": 0.1, "high": 1.3},
        "images": 1200,
        "scored": {"old": 8, "new": 2},
    }
    return {"segm": {**known, **figures}, "bbox": {}, "old_classes": 8, "new_classes": 2}


def test_lines() -> None:
    assert extension_lines(extension()) == [
        "old classes (8)  mask AP 15.9, before 16.3: forgot 0.4 (0.1 to 1.3)",
        "new classes (2)  mask AP 24.0",
        "all (10)         17.5; harmonic mean of old and new 19.1",
    ]


def test_classes_that_no_test_set_has() -> None:
    lines = extension_lines(extension(scored={"old": 2, "new": 2}))
    assert [line.partition("  ")[0] for line in lines] == [
        "old classes (2 of 8)",
        "new classes (2)",
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
    lines = extension_lines(extension(forgetting=forgetting))
    assert words in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80


def test_what_is_not_known() -> None:
    lines = extension_lines(extension(old=None, all=None, harmonic_mean=None, new=None))
    assert lines == [
        "old classes (8)  in no test set; DATASETS.TEST_SOURCE names sets that annotate",
        "                 them",
        "new classes (2)  in no set of DATASETS.TEST",
    ]
    assert extension_lines({"old_classes": None, "new_classes": None, "sets": {}}) == []
    assert extension_lines({}) == []
