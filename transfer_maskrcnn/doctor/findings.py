"""What the doctor says: findings are codes, places and figures; ``advice.yaml`` has their words."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any

from termcolor import colored

from transfer_maskrcnn.files import parse_yaml
from transfer_maskrcnn.text import few, listed, plural, printable, quoted, shorten, wrapped

SEVERITIES = {"error": "red", "warning": "yellow", "note": "cyan"}  # the worst first
_SHOWN = 3  # places of a finding, on a terminal
_NAMED = 2  # findings in the verdict
_MOST_PLACES = 1_000  # of one finding
_LONG = 60  # names of classes, or an id

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """One item that a finding is about.

    Attributes:
        file: where to look: an image, or an annotation file; "" where it is in no file.
        item: the part of the file, as the loader names it: "annotations[3]".
        id: of the annotation, as the file states it.
        line: of the file, from 1.
        image: the image file that it is in; may be ``file`` itself.
        drawn: the annotations of the image's record that it is about, by number.
        classes: the names that it is about.
        seen: figures; the words of a kind have their names in braces.
    """

    file: str = ""
    item: str = ""
    id: Any = None
    line: int | None = None
    image: str = ""
    drawn: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    seen: Mapping[str, Any] = field(default_factory=dict)

    def where(self) -> str:
        """What of the file: "annotations[3], id 17, line 120 of 004.png"."""
        if self.classes:
            word = "class" if len(self.classes) == 1 else "classes"
            return shorten(f"{word} {' and '.join(map(repr, self.classes))}", _LONG)
        shown = [
            f"{word} {shorten(str(number), _LONG)}"
            for word, number in (("id", self.id), ("line", self.line))
            if number is not None
        ]
        where = ", ".join(filter(None, (self.item, *shown)))
        elsewhere = self.image not in ("", self.file)
        return where + (f" of {os.path.basename(self.image)}" if elsewhere else "")


Told = tuple[str, Place, int]  # kind of finding, where, and how many are meant


@dataclass(frozen=True)
class Finding:
    """Something that was found in one dataset, or between two of them: what, how often, where.

    ``count`` may exceed the number of ``places``: of thousands of one kind, the first are kept.
    ``values`` are figures of the whole, as ``Place.seen`` are of a place.
    """

    kind: str
    dataset: str
    places: tuple[Place, ...]
    count: int
    values: Mapping[str, Any]

    @property
    def severity(self) -> str:
        return str(advice()[self.kind]["severity"])

    def as_json(self) -> Json:
        """All of it, and its words: they are written here, once, for whoever shows them."""
        words = advice()[self.kind]
        values = {**self.values, "count": self.count, "dataset": self.dataset}
        places = [
            {
                **asdict(place),
                "where": place.where(),
                "note": _filled(words.get("note", "{note}"), place.seen),
            }
            for place in self.places
        ]
        return {
            "kind": self.kind,
            "dataset": self.dataset,
            "severity": self.severity,
            "count": self.count,
            "what": _filled(words["one" if self.count == 1 else "what"], values),
            "effect": _filled(words["effect"], values),
            "fix": _filled(words["fix"], values),
            "values": dict(self.values),
            "places": places,
        }


@cache
def advice() -> Mapping[str, Json]:
    """Kind of finding -> its words; the file says how they are to be read."""
    text = resources.files(__package__).joinpath("advice.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, "advice.yaml")


class _Words(Formatter):
    """``{pixels:pixel}`` shows a number with its noun: "1 pixel", "2,000 pixels"."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return quoted([value]) if conversion == "r" else super().convert_field(value, conversion)

    def format_field(self, value: Any, spec: str) -> str:
        if isinstance(value, int) and spec.isalpha():
            return plural(value, spec)
        if isinstance(value, list) and value and isinstance(value[0], str):
            return quoted(value, 6)
        return str(super().format_field(value, spec))


def _filled(words: str | dict[str, str], values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    text = words if isinstance(words, str) else words[next(iter(values))]
    return _Words().vformat(text, (), values)


def finding(
    kind: str, dataset: str, places: Iterable[Place], count: int | None = None, **values: Any
) -> Finding:
    """A finding of a kind that ``advice.yaml`` knows.

    Args:
        count: where it is more than the number of ``places``.
        **values: what the words of that kind have in braces.
    """
    found = tuple(places)
    number = len(found) if count is None else count
    return Finding(kind, dataset, found[:_MOST_PLACES], number, values)


def grouped(dataset: str, told: Iterable[Told], **values: Any) -> Iterator[Finding]:
    """What was told of single places as findings, one a kind, all with the same ``values``."""
    by_kind: dict[str, list[tuple[Place, int]]] = defaultdict(list)
    for kind, place, count in told:
        by_kind[kind].append((place, count))
    for kind, found in by_kind.items():
        places, counts = zip(*found, strict=True)
        yield finding(kind, dataset, places, sum(counts), **values)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings before notes; among those, what stops a load first, what follows from
    other findings last, and between them what concerns more items first."""

    def key(found: Finding) -> tuple[int, int, int, str]:
        order = advice()[found.kind].get("order", "")
        rank = ("first", "", "last").index(order)
        return list(SEVERITIES).index(found.severity), rank, -found.count, found.kind

    return sorted(findings, key=key)


def verdict(findings: Sequence[Json]) -> str:
    """How many findings of each severity, and the worst of them, in a sentence."""
    if not findings:
        return "Nothing found: these datasets can be trained on as they are."
    counts = Counter(found["severity"] for found in findings)
    parts = [plural(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    serious = [found for found in findings if found["severity"] != "note"]
    if not serious:
        return f"No errors and no warnings; {parts[0]}."
    several = len({found["dataset"] for found in serious}) > 1
    named = [
        f"{f['dataset']}: " * several + f"{f['count']:,} {f['what']}" for f in serious[:_NAMED]
    ]
    return f"{listed(parts)}: {'; '.join(named + ['and more'] * (len(serious) > _NAMED))}."


def print_diagnosis(content: Json) -> None:
    """On a terminal: datasets, findings, the worst first, and the verdict.

    Args:
        content: what ``Diagnosis.as_json`` returns.
    """
    content = printable(content)
    for dataset in content["datasets"]:
        numbers = few([f"{shorten(name)} {count}" for name, count in dataset["classes"].items()], 8)
        print(wrapped(f"{dataset['name']}: {dataset['counted']}; {numbers}", "  "))
    for found in content["findings"]:
        print()
        _print(found)
    print("\n" + wrapped(content["verdict"], ""))


def _print(found: Json) -> None:
    severity = found["severity"].upper()
    head = wrapped(f"{severity}  {found['dataset']}: {found['count']:,} {found['what']}", "  ")
    print(colored(severity, SEVERITIES[found["severity"]], attrs=["bold"]) + head[len(severity) :])
    for text in (found["effect"], f"Fix: {found['fix']}"):
        print(wrapped(text, "  ", "  "))
    places = found["places"][:_SHOWN]
    common = {place["file"] for place in places}
    shared = len(common) == 1 and common != {""} and all(place["where"] for place in places)
    if shared:
        print(wrapped(f"in {_short(*common)}", "  ", "  ", whole=True))
    for place in places:
        file = "" if shared else _short(place["file"])
        told = ": ".join(filter(None, (file, place["where"], place["note"])))
        print(wrapped(told, "    ", "  - ", whole=True))
    if len(found["places"]) > _SHOWN:
        print(f"  - ... and {found['count'] - _SHOWN:,} more (--json FILE lists them)")


def _short(file: str) -> str:
    """A path, relative to where the user is if that is shorter."""
    return min(file, os.path.relpath(file) if os.path.isabs(file) else file, key=len)
