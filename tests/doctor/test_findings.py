"""The words of the doctor: on a terminal, in json and on its page they are the same."""

from collections.abc import Callable
from pathlib import Path

import pytest

from transfer_maskrcnn.doctor import Diagnosis, page_data
from transfer_maskrcnn.doctor.findings import (
    Place,
    advice,
    finding,
    print_diagnosis,
    verdict,
    worst_first,
)
from transfer_maskrcnn.report.doctor_page import write_doctor_page
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
    # what a missing image takes along is no error of its own
    assert "\n1 error, 1 warning and 1 note: 1 image that is listed, but not on disk; 6" in text
    assert "\x1b" not in text  # colours are for terminals


def test_names_do_not_steer_a_terminal_and_are_shown_whole(
    train: Planted,
    diagnose: Callable[..., Diagnosis],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A file's name and a label with codes of a terminal; a byte that is no text; a long path."""
    deep = f"{'a_long_folder_name_' * 5}/{'a_long_file_name_' * 5}"
    names = [f"{deep}{k}.png" for k in range(2)] + ["\x1b[2J.png", "\udcff\u202e.png"]
    (train.root / deep).parent.mkdir()
    for number, name in enumerate(names, start=1):
        train.image(number).rename(train.root / name)
        train.content["images"][number - 1]["file_name"] = name
    for number in (5, 6):
        train.content["images"][number]["file_name"] = f"\x1b]0;{number}\x07.png"
    train.content["categories"][0]["name"] = "nut\x1b[31m"
    for one in train.annotations[:12:3]:
        one["area"] = 7
    diagnosis = diagnose(train)
    print_diagnosis(diagnosis.as_json())
    text = capsys.readouterr().out
    text.encode()
    assert not any(c < " " for c in text.replace("\n", ""))
    assert "nut\\x1b[31m" in text and "\\x1b]0;5\\x07.png" in text
    assert all(f"{deep}{k}.png".split("/")[-1] in text for k in range(2))
    assert "\x1b" not in diagnosis.examined[0].dataset.report.summary()
    page = write_doctor_page(page_data(diagnosis), tmp_path / "doctor.html")
    assert page.read_text(encoding="utf-8").count("<img") > 6


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
    assert worst_first([lost, note, missing, error, stops]) == [stops, error, missing, note, lost]


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
        ("image_missing", {"note": "the nearest is b/a.png"}, "the nearest is b/a.png"),
        ("image_missing", {}, ""),
        ("tiny", {"pixels": 1, "after": 0.84}, "1 pixel, 0.8 after resizing"),
        ("image_size", {"note": "annotated as 9x7"}, "annotated as 9x7"),
        ("area_wrong", {"note": "area 7"}, "area 7"),  # of the loader; of the doctor
        ("area_wrong", {"stated": 7.0, "area": 99.5}, "area 7, the mask has 99.5"),
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
        {"severity": names[s], "count": 7, "what": f"bad {i}", "dataset": "a"}
        for i, s in enumerate(severities)
    ]
    assert verdict(found) == sentence


def test_of_several_sets_the_verdict_names_them() -> None:
    found = [
        {"severity": "error", "count": 2, "what": "bad", "dataset": name} for name in ("a", "b")
    ]
    assert verdict(found) == "2 errors: a: 2 bad; b: 2 bad."
