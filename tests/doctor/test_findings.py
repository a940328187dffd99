"""The words of the doctor: on a terminal, in json and on its page they are the same."""

from collections.abc import Callable

import pytest

from transfer_maskrcnn.doctor import Diagnosis
from transfer_maskrcnn.doctor.findings import (
    Place,
    advice,
    finding,
    print_diagnosis,
    verdict,
    worst_first,
)
from transfer_maskrcnn.text import shorten

from .conftest import Planted


def test_a_diagnosis_fits_a_terminal_of_80_columns(
    train: Planted,
    val: Planted,
    diagnose: Callable[..., Diagnosis],
    capsys: pytest.CaptureFixture[str],
) -> None:
    train.image(3).unlink()
    for one in train.annotations[:6]:
        one["area"] = 7
    print_diagnosis(diagnose(train, val).as_json())
    text = capsys.readouterr().out
    assert all(len(line) <= 80 or "/" in line for line in text.splitlines())
    assert text.index("ERROR") < text.index("WARNING")
    assert "1 image that is listed, but not on disk" in text
    assert "6 instances whose area field is not the area of their mask" in text
    assert "and 3 more" in text
    assert "\n2 errors and 1 warning: 1 image that is listed, but not on disk; 3 instances" in text
    assert "\x1b" not in text  # colours are for terminals


def test_nothing_found_is_said(
    train: Planted,
    val: Planted,
    diagnose: Callable[..., Diagnosis],
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_diagnosis(diagnose(train, val).as_json())
    assert "Nothing found" in capsys.readouterr().out


def test_the_worst_comes_first() -> None:
    place = Place("a.png")
    few = finding("box_off", "toy", [place])
    many = finding("area_wrong", "toy", [place] * 3)
    note = finding("only_boxes", "toy", [place] * 9)
    error = finding("duplicate", "toy", [place])
    assert worst_first([note, few, many, error]) == [error, many, few, note]
    lost = finding("lost_with_image", "toy", [place] * 9)  # a consequence
    missing, stops = (finding(k, "toy", [place]) for k in ("image_missing", "unloadable"))
    assert worst_first([lost, error, missing, stops]) == [stops, error, missing, lost]


def test_every_kind_has_whole_sentences() -> None:
    for kind, words in advice().items():
        for text in (words["effect"], words["fix"]):
            cases = [text] if isinstance(text, str) else text.values()
            assert all(case.endswith((".", "?")) for case in cases), kind
        assert not words["what"].endswith("."), kind


@pytest.mark.parametrize(
    ("name", "short"),
    [("a.png", "a.png"), ("0123456789abcdefghij.png", "0123456789abcdefghij.png")],
)
def test_short_names_stay(name: str, short: str) -> None:
    assert shorten(name) == short


def test_long_names_lose_their_middle() -> None:
    assert shorten("abcdefghijklmnopqrstuvwxyz.png") == "abcdefghijk...uvwxyz.png"
    assert len(shorten("x" * 99)) == 24


@pytest.mark.parametrize(
    ("place", "where"),
    [
        (
            Place("a.json", "annotations[3]", 17, 120, "b/4.png"),
            "annotations[3], id 17, line 120 of 4.png",
        ),
        (Place("a.txt", line=2, image="4.png"), "line 2 of 4.png"),
        (Place("4.png", image="4.png"), ""),
        (Place(classes=("nut",)), "class 'nut'"),
        (Place(classes=("nut", "Nut")), "classes 'nut' and 'Nut'"),
    ],
)
def test_places_in_words(place: Place, where: str) -> None:
    assert place.where() == where


@pytest.mark.parametrize(
    ("kind", "seen", "note"),
    [
        ("image_missing", {"similar": "a.PNG"}, "there is a.PNG"),
        ("image_missing", {"no_folder": "x"}, "there is no folder x"),
        ("image_missing", {}, ""),
        ("tiny", {"pixels": 1, "after": 0.84}, "1 pixel, 0.8 after resizing"),
        ("image_size", {"note": "annotated as 9x7"}, "annotated as 9x7"),
        ("same_image_across", {"looks_like": "b.png"}, "looks the same as b.png"),
    ],
)
def test_what_was_seen_in_words(kind: str, seen: dict[str, object], note: str) -> None:
    (place,) = finding(kind, "toy", [Place("a", seen=seen)], side=4, input=800).as_json()["places"]
    assert place["note"] == note


def test_a_finding_in_words() -> None:
    found = finding("class_unused", "toy", [Place(classes=("a",))] * 2, names=["a", "b"])
    assert found.as_json()["what"] == "classes without an instance ('a', 'b')"
    found = finding("empty_images", "toy", [Place("a.png")], background=True)
    assert found.as_json()["what"] == "image without objects"
    assert found.as_json()["effect"].startswith("Trained on as background")


@pytest.mark.parametrize(
    ("severities", "sentence"),
    [
        ("", "Nothing found: these datasets can be trained on as they are."),
        ("e", "1 error: 7 bad 0."),
        ("eww", "1 error and 2 warnings: 7 bad 0; 7 bad 1; and more."),
        ("ewn", "1 error, 1 warning and 1 note: 7 bad 0; 7 bad 1."),  # a note is not named
        ("nn", "No errors and no warnings; 2 notes."),
    ],
)
def test_verdict(severities: str, sentence: str) -> None:
    names = {"e": "error", "w": "warning", "n": "note"}
    found = [
        {"severity": names[s], "count": 7, "what": f"bad {i}"} for i, s in enumerate(severities)
    ]
    assert verdict(found) == sentence
