"""A diagnosis in words, for a terminal."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from termcolor import colored

from transfer_maskrcnn.doctor.examine import Diagnosis
from transfer_maskrcnn.doctor.findings import SEVERITIES, Finding, Place
from transfer_maskrcnn.text import plural, shorten

WIDTH = 80
_SHOWN = 3
_LONG_PATH = 60
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Datasets first, then findings, the worst first, then how many of each severity."""
    for loaded in diagnosis.loaded:
        dataset = loaded.dataset
        counts = loaded.class_counts()
        shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:8])
        more = ", ..." if len(counts) > 8 else ""
        line = (
            f"{loaded.name}: {plural(len(dataset.dicts), 'image')}, "
            f"{plural(sum(dataset.instances), 'instance')}; {shown}{more}"
        )
        print(textwrap.fill(line, WIDTH, subsequent_indent="  "))
    for found in diagnosis.findings:
        print()
        print("\n".join(_lines(found)))
    print(f"\n{_conclusion(diagnosis.findings)}")


def _lines(found: Finding) -> Iterator[str]:
    head = f"{found.severity.upper()}  {found.dataset}: {found.count:,} {found.what}"
    first, *others = textwrap.wrap(head, WIDTH, subsequent_indent="  ")
    severity = colored(found.severity.upper(), _COLOURS[found.severity], attrs=["bold"])
    yield severity + first[len(found.severity) :]
    yield from others
    yield textwrap.fill(found.effect, WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield textwrap.fill(f"Fix: {found.fix}", WIDTH, initial_indent="  ", subsequent_indent="  ")
    shown = found.places[:_SHOWN]
    files = {place.file for place in shown if place.where}
    common = files.pop() if len(files) == 1 and all(place.where for place in shown) else None
    if common is not None:
        yield _wrapped(f"in {_short(common)}", "  ")
    for place in shown:
        yield _wrapped(_words(place, common), "  - ")
    if len(found.places) > _SHOWN:
        yield f"  - ... and {found.count - _SHOWN:,} more (--json FILE lists them)"


def _words(place: Place, common: str | None) -> str:
    file = "" if place.file == common else _short(place.file)
    return ": ".join(filter(None, (file, place.where, place.note)))


def _short(file: str) -> str:
    """A path relative to where the user is if that is shorter, long names without their middle."""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    shorter = min(file, relative, key=len)
    if len(shorter) <= _LONG_PATH:
        return shorter
    return os.sep.join(shorten(part) for part in shorter.split(os.sep))


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _conclusion(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing found: these datasets can be trained on as they are."
    counts = Counter(f.severity for f in findings)
    parts = [plural(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return f"{', '.join(parts)}."
