"""What was lost is told by code and place; the words are made of these here alone."""

from __future__ import annotations

import pytest

from transfer_maskrcnn.data.formats.base import WORDS, LoadReport, Place, Reason


def test_every_reason_has_words() -> None:
    assert set(WORDS) == set(Reason)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("a.jpg"), "a.jpg"),
        (Place("a.jpg", "annotations", 3), "a.jpg: annotations[3]"),
        (Place("a.jpg", "line", 4), "a.jpg: line 4"),
        (Place("a.jpg", "value", 1, "region 2"), "a.jpg: value 1: region 2"),
        (Place("a.jpg", "m2.png"), "a.jpg: m2.png"),
        (Place(note="'cat'"), "'cat'"),
    ],
)
def test_a_place_in_words(place: Place, text: str) -> None:
    assert str(place) == text


def test_the_summary_says_what_was_lost_and_where_first() -> None:
    report = LoadReport(images_read=3, images_kept=2, instances_read=9, instances_kept=5)
    report.count(report.images_left_out, Reason.IMAGE_MISSING, Place("b.jpg"))
    report.count(report.left_out, Reason.IN_LEFT_OUT_IMAGE, Place("b.jpg"), 3)
    report.count(report.left_out, Reason.IN_LEFT_OUT_IMAGE, Place("c.jpg"), 0)
    report.count(report.left_out, Reason.OTHER_SHAPE, Place("a.jpg", "shapes", 1, "line"))
    for number in (2, 3):
        report.count(report.repaired, Reason.CLIPPED, Place("a.jpg", "shapes", number))
    assert report.summary() == (
        "2 of 3 images, 5 of 9 instances kept; images left out: 1 missing on disk (first: b.jpg); "
        "instances left out: 3 in images left out (first: b.jpg), 1 of a shape that encloses no "
        "area (first: a.jpg: shapes[1]: line); repaired: 2 clipped to the image (first: a.jpg: "
        "shapes[2])"
    )
