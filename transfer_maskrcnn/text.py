"""Small pieces of sentences, for terminals, error messages and pages alike."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

WIDTH = 80
_LONG = 40  # columns of a name in a list


def plural(number: float, word: str) -> str:
    """``(1, "image")`` -> "1 image", ``(1200, "image")`` -> "1,200 images"."""
    return f"{number:,.0f} {word}{'' if number == 1 else 's'}"


def number(value: float | None) -> str:
    """One decimal; "-" for what is not known."""
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"  # -0.0 becomes 0.0


def first_of(*cases: tuple[object, T]) -> T:
    """The value of the first case that holds: (whether it does, value) pairs."""
    return next(value for holds, value in cases if holds)


def few(items: Sequence[str], most: int) -> str:
    """The first ``most`` items of a list that may be long, and how many there are beside them."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def quoted(names: Sequence[str], most: int = 8) -> str:
    """``'a', 'b', ... (80 names)``: names as they are written, in a list that fits a sentence."""
    more = f", ... ({len(names)} names)" if len(names) > most else ""
    return ", ".join(shorten(repr(name), _LONG) for name in names[:most]) + more


def listed(items: Iterable[Any]) -> str:
    """``[0, 1, 2]`` -> "0, 1 and 2"."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def spoken(seconds: float) -> str:
    """``80`` -> "80 seconds", ``200`` -> "3 minutes", ``9000`` -> "2.5 hours"."""
    if seconds < 120:
        return plural(round(seconds), "second")
    minutes = round(seconds / 60)
    return plural(minutes, "minute") if minutes < 120 else f"{minutes / 60:.1f} hours"


def percent(share: float) -> str:
    """``0.9996`` -> "99.9 %": rounded down, so that "100 %" means that nothing is missing."""
    if share == int(share):
        return f"{share:.0%}".replace("%", " %")
    return f"{math.floor(share * 1000) / 10:.1f} %"


def _stretched(text: str) -> str:
    """``text`` with a NUL behind each character that fills two columns of a terminal, as Chinese
    ones do: its length is its columns."""
    return "".join(c + "\0" * (unicodedata.east_asian_width(c) in "WF") for c in text)


def shorten(name: str, most: int = 24) -> str:
    """A name of more than ``most`` columns without its middle."""
    wide = _stretched(name)
    head, most = most // 2 - 1, most - ("\0" in wide)  # the cut may halve a character
    short = f"{wide[:head]}...{wide[-(most - head - 3) :]}"
    return name if len(wide) <= most else short.replace("\0", "")


def printable(value: Any) -> Any:
    """A text, or all texts in lists and dicts, as a terminal can show them.

    What would steer it, turn the direction of writing or cannot be encoded is written as Python
    writes it: "\\x1b".
    """
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(one) for one in value]
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def wrapped(text: str, indent: str = "    ", first: str = "", whole: bool = False) -> str:
    """``text`` in lines of at most 80 columns, continued with ``indent`` after ``first``.

    ``whole``: a longer word, as a path, stays in one piece, for whoever copies it.
    """
    wide = _stretched(text)
    lines = textwrap.wrap(
        wide,
        WIDTH - ("\0" in wide),  # a break may halve a character
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=not whole,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", "")


def folded(text: str) -> str:
    """``text`` whose lines of more than 80 columns are wrapped."""
    lines = (line if len(line) <= WIDTH else wrapped(line, whole=True) for line in text.split("\n"))
    return "\n".join(lines)
