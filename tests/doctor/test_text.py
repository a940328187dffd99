from collections.abc import Callable

import pytest

from transfer_maskrcnn.doctor.examine import Diagnosis
from transfer_maskrcnn.doctor.findings import Place, advice, finding, worst_first
from transfer_maskrcnn.doctor.text import print_diagnosis
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
    print_diagnosis(diagnose(train, val))
    text = capsys.readouterr().out
    assert all(len(line) <= 80 or "/" in line for line in text.splitlines())
    assert text.index("ERROR") < text.index("WARNING")
    assert "1 image that is listed, but not on disk" in text
    assert "6 instances whose area field is not the area of their mask" in text
    assert "and 3 more" in text
    assert text.rstrip().endswith("2 errors, 1 warning.")
    assert "\x1b" not in text  # colours are for terminals


def test_nothing_found_is_said(
    train: Planted,
    val: Planted,
    diagnose: Callable[..., Diagnosis],
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_diagnosis(diagnose(train, val))
    assert "Nothing found" in capsys.readouterr().out


def test_the_worst_comes_first() -> None:
    place = Place("a.png")
    few = finding("box_off", "toy", [place])
    many = finding("area_wrong", "toy", [place] * 3)
    note = finding("only_boxes", "toy", [place] * 9)
    error = finding("duplicate", "toy", [place])
    assert worst_first([note, few, many, error]) == [error, many, few, note]


def test_every_kind_has_whole_sentences() -> None:
    for kind, words in advice().items():
        assert words.effect.endswith((".", "}")) and words.fix.endswith((".", "?", "}")), kind
        assert not words.what.endswith("."), kind


@pytest.mark.parametrize(
    ("name", "short"),
    [("a.png", "a.png"), ("0123456789abcdefghij.png", "0123456789abcdefghij.png")],
)
def test_short_names_stay(name: str, short: str) -> None:
    assert shorten(name) == short


def test_long_names_lose_their_middle() -> None:
    assert shorten("abcdefghijklmnopqrstuvwxyz.png") == "abcdefghijk...uvwxyz.png"
    assert len(shorten("x" * 99)) == 24
