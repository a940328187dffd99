"""What the doctor says: findings, each with its places; their words are in ``advice.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the worst first


@dataclass(frozen=True)
class Place:
    """One item that a finding is about.

    ``file`` is where to look, ``where`` the part of it ("annotations[3], id 17, line 120") and
    ``note`` what was seen there. ``image`` can be drawn, with the ``drawn`` instances of its
    record, by number.
    """

    file: str
    where: str = ""
    note: str = ""
    image: str = ""
    drawn: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.where, self.note)))


@dataclass(frozen=True)
class Advice:
    """The words for one kind of finding: ``one`` follows the number 1, ``what`` other numbers."""

    severity: Severity
    one: str
    what: str
    effect: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """Something that was found in one dataset (or between two of them): what, how often, where.

    ``count`` may exceed the number of ``places``: of thousands of one kind, the first are kept.
    """

    kind: str
    dataset: str
    severity: Severity
    count: int
    what: str
    effect: str
    fix: str
    places: tuple[Place, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def advice() -> Mapping[str, Advice]:
    """Kind of finding -> its words."""
    text = resources.files(__package__).joinpath("advice.yaml").read_text(encoding="utf-8")
    return {kind: Advice(**words) for kind, words in yaml.safe_load(text).items()}


def finding(
    kind: str, dataset: str, places: Iterable[Place], count: int | None = None, **values: Any
) -> Finding:
    """A finding of a kind that ``advice.yaml`` knows.

    Args:
        count: where it is more than the number of ``places``.
        **values: what the words of that kind have in braces.
    """
    words, found = advice()[kind], tuple(places)
    number = len(found) if count is None else count
    values |= {"count": number, "dataset": dataset}
    return Finding(
        kind,
        dataset,
        words.severity,
        number,
        (words.one if number == 1 else words.what).format_map(values),
        words.effect.format_map(values),
        words.fix.format_map(values),
        found,
    )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings before notes; among those, what concerns more items first."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -f.count, f.kind))
