"""Class names: which target class gets the rows of which source class. By name, never by index."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transfer_maskrcnn.surgery.words import Code, How, Problem

ClassMap = Sequence[Sequence[str]]
NewClassInit = str | Sequence[Sequence[str]]  # of all new classes, or (new class, init) pairs


@dataclass(frozen=True)
class ClassRow:
    """Where one target class gets its rows: a source class, or none (``source`` is None).

    ``averaged``: the source classes of which the rows are the mean, where it is ``How.MERGED``.
    """

    target: str
    source: str | None
    how: How
    averaged: tuple[str, ...] = ()


def fold(name: str) -> str:
    """``Traffic_Light`` -> ``trafficlight``: case, space, underscore and hyphen do not count.

    Nor does whether an accent is a character of its own, as in what some systems write.
    """
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name)).casefold()


def same_name(a: str, b: str) -> bool:
    """Whether two names are equal but for case, space, underscore or an English plural."""
    a, b = fold(a), fold(b)
    return bool(a) and (a == b or b in _plurals(a) or a in _plurals(b))


def _plurals(name: str) -> set[str]:
    return {name + "s", name + "es", *([name[:-1] + "ies"] if name.endswith("y") else [])}


def match_classes(
    source: Sequence[str],
    target: Sequence[str],
    class_map: ClassMap,
    new_class_init: NewClassInit,
) -> tuple[tuple[ClassRow, ...], tuple[Problem, ...]]:
    """Finds the source class of every target class.

    Args:
        source: class names in the order of the source's rows ("" for a row without a class).
        target: class names in the order of the target's rows.
        class_map: (source class, target class) pairs; they win over equal names. A target class of
            several sources gets the mean of their rows.
        new_class_init: "default", "mean", or the source class that new classes start from; or
            (new class, one of these) pairs, which win over ``class_map``.

    Returns:
        one row a target class, in order; and what is wrong with the names.
    """
    mapped, problems = _mapped(source, target, class_map)
    started, fallback, wrong = new_rows(source, target, new_class_init)
    problems += wrong
    rows = []
    for name in target:
        found = find_class(name, source)
        if name in started:
            rows.append(started[name])
        elif len(parents := mapped.get(name, ())) > 1:
            rows.append(ClassRow(name, None, How.MERGED, tuple(parents)))
        elif parents:
            rows.append(ClassRow(name, parents[0], How.MAPPED))
        elif found is not None:
            rows.append(ClassRow(name, found, How.EQUAL if found == name else How.FOLDED))
        else:
            rows.append(replace(fallback, target=name))
    if all(row.how in (How.MEAN, How.NEW) for row in rows):
        data = {"old": list(source), "new": list(target)}
        problems.append(Problem(Code.NO_CLASS_MATCHES, data))
    return tuple(rows), tuple(problems)


def _mapped(
    source: Sequence[str], target: Sequence[str], class_map: ClassMap
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Target class -> its source classes, each once, in the order of the pairs."""
    mapped: dict[str, list[str]] = {}
    problems = []
    for pair in class_map:
        if len(pair) != 2 or isinstance(pair, str):
            problems.append(Problem(Code.CLASS_MAP_PAIR, {"pair": pair}))
            continue
        old, new = find_class(pair[0], source), find_class(pair[1], target)
        if old is None:
            problems.append(_unknown("CLASS_MAP", pair[0], "source", source))
        if new is None:
            problems.append(_unknown("CLASS_MAP", pair[1], "target", target))
        if old is not None and new is not None and old not in mapped.setdefault(new, []):
            mapped[new].append(old)
    return mapped, problems


def new_rows(
    source: Sequence[str], target: Sequence[str], init: NewClassInit
) -> tuple[dict[str, ClassRow], ClassRow, list[Problem]]:
    """What NEW_CLASS_INIT says: the rows of the classes that it names, and those of all others.

    Returns:
        target class -> its row; the row of new classes that are not named, its target ""; and what
        is wrong with the names.
    """
    fallback = ClassRow("", None, How.NEW)
    if isinstance(init, str):
        row, problem = _start("", init, source)
        return {}, row or fallback, [problem] if problem else []
    rows: dict[str, ClassRow] = {}
    problems = []
    for pair in init:
        row, problem = _start_of(pair, source, target)
        if row is not None and rows.setdefault(row.target, row) != row:
            problem = Problem(Code.STARTED_TWICE, {"name": row.target})
        problems += [problem] if problem else []
    return rows, fallback, problems


def _start_of(
    pair: Sequence[str], source: Sequence[str], target: Sequence[str]
) -> tuple[ClassRow | None, Problem | None]:
    if len(pair) != 2 or isinstance(pair, str):
        return None, Problem(Code.CLASS_INIT_PAIR, {"pair": pair})
    name = find_class(pair[0], target)
    if name is None:
        return None, _unknown("NEW_CLASS_INIT", pair[0], "target", target)
    own = find_class(name, source)
    if own is not None:
        return None, Problem(Code.NOT_NEW, {"name": name, "own": own})
    return _start(name, pair[1], source)


def _start(name: str, init: str, source: Sequence[str]) -> tuple[ClassRow | None, Problem | None]:
    """The row of the new class ``name``: "default", "mean", or of a source class."""
    if init in ("default", "mean"):
        return ClassRow(name, None, How.MEAN if init == "mean" else How.NEW), None
    parent = find_class(init, source)
    if parent is None:
        return None, _unknown("NEW_CLASS_INIT", init, "source", source)
    return ClassRow(name, parent, How.PARENT), None


def find_class(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that means ``name``; None where none or several do."""
    levels: list[Callable[[str], bool]] = [
        lambda other: other == name,
        lambda other: fold(other) == fold(name),
        lambda other: same_name(other, name),
    ]
    for level in levels:
        found = [other for other in names if other and level(other)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _unknown(key: str, name: str, side: str, names: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(name, names, n=1)
    data = {"key": key, "name": name, "side": side, "names": list(names)}
    return Problem(Code.UNKNOWN_CLASS, {**data, "near": near[0] if near else ""})
