"""The words that every sentence of the project is built from."""

from __future__ import annotations

import pytest

from transfer_maskrcnn import text
from transfer_maskrcnn.errors import ConfigError, DatasetError, refuse


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 images"),
        (1, "1 image"),
        (1200, "1,200 images"),
        (2.0, "2 images"),  # a count out of a json file may be a float
    ],
)
def test_plural(number: float, said: str) -> None:
    assert text.plural(number, "image") == said


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.04, "0.0"), (-0.04, "0.0"), (-0.06, "-0.1"), (99.96, "100.0")],
)
def test_number(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


def test_of_several_cases_the_first_that_holds_counts() -> None:
    assert text.first_of((0, "a"), ([1], "b"), (True, "c")) == "b"
    refuse((0, "a"), ("", "b"))
    with pytest.raises(ConfigError, match=r"^b$"):
        refuse((None, "a"), (["x"], "b"), (True, "c"))
    with pytest.raises(DatasetError, match=r"^a$"):
        refuse((True, "a"), error=DatasetError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Käse 雪.png", "Käse 雪.png"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),  # written from right to left
        ("\udcff.png", r"\udcff.png"),  # a byte that is no text
        ({"\x1b": ["\x9b", 1, None]}, {r"\x1b": [r"\x9b", 1, None]}),
    ],
)
def test_printable(value: object, shown: object) -> None:
    assert text.printable(value) == shown


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], ""),
        (["a", "b"], "a, b"),  # as many as are shown: nothing is beside them
        (["a", "b", "c", "d"], "a, b and 2 more"),
    ],
)
def test_few(items: list[str], said: str) -> None:
    assert text.few(items, 2) == said


def test_quoted_names_are_what_was_written() -> None:
    assert text.quoted(["a b", "it's"]) == "'a b', \"it's\""
    assert text.quoted(["a", "b", "c"], 2) == "'a', 'b', ... (3 names)"
    assert len(text.quoted(["x" * 200])) == 40


@pytest.mark.parametrize(
    ("items", "said"),
    [([], ""), ([0], "0"), ([0, 1], "0 and 1"), ([0, 1, 2], "0, 1 and 2")],
)
def test_listed(items: list[int], said: str) -> None:
    assert text.listed(items) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9996, "99.9 %"),  # never rounded up to "nothing is missing"
        (0.5, "50.0 %"),
        (0.0004, "0.0 %"),
    ],
)
def test_percent(share: float, said: str) -> None:
    assert text.percent(share) == said


@pytest.mark.parametrize("most", [12, 24])
def test_shorten_keeps_both_ends(most: int) -> None:
    name = "a_very_long_folder/and_an_image_0001.jpg"
    short = text.shorten(name, most)
    assert len(short) == most
    head, tail = short.split("...")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert text.shorten("short", most) == "short"
    assert 2 * len(text.shorten("雪山" * 9, most).replace("...", "")) <= most - 3


def test_wrapped_lines_fit_a_terminal() -> None:
    lines = text.wrapped("word " * 50).splitlines()
    assert max(map(len, lines)) <= 80
    wide = text.wrapped("雪山。" * 50).splitlines()  # two columns each
    assert all(len(line.strip()) <= 40 for line in wide) and "".join(wide).count("山") == 50
    assert len(lines) > 1
    assert all(line.startswith("    ") for line in lines[1:])
    assert text.wrapped("a-long-" * 8) == "a-long-" * 8  # paths and options stay in one piece
