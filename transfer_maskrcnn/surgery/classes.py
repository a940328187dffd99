"""Class names: which target class gets the rows of which source class. By name, never by index."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transfer_maskrcnn.surgery.problems import Problem

ClassMap = Sequence[Sequence[str]]
NewClassInit = str | Sequence[Sequence[str]]  # of all new classes, or (new class, init) pairs

EQUAL = "equal name"
FOLDED = "equal but for case, space, underscore or plural"
MAPPED = "class map"
MERGED = "class map of several"
PARENT = "parent class"
MEAN = "mean of all source rows"
NEW = "new class, as detectron2 initialises it"


@dataclass(frozen=True)
class ClassRow:
    """Where one target class gets its rows: a source class, or none (``source`` is None).

    ``averaged`` names the source classes of which the rows are the mean, where ``how`` is MERGED.
    """

    target: str
    source: str | None
    how: str
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
            rows.append(ClassRow(name, None, MERGED, tuple(parents)))
        elif parents:
            rows.append(ClassRow(name, parents[0], MAPPED))
        elif found is not None:
            rows.append(ClassRow(name, found, EQUAL if found == name else FOLDED))
        else:
            rows.append(replace(fallback, target=name))
    if all(row.how in (MEAN, NEW) for row in rows):
        problems.append(_no_match(source, target))
    return tuple(rows), tuple(problems)


def _mapped(
    source: Sequence[str], target: Sequence[str], class_map: ClassMap
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Target class -> its source classes, each once, in the order of the pairs."""
    mapped: dict[str, list[str]] = {}
    problems = []
    for pair in class_map:
        if len(pair) != 2 or isinstance(pair, str):
            problems.append(
                Problem(
                    "class_map",
                    f"CLASS_MAP holds {pair!r}, not a pair of names.",
                    'Write pairs of source and target class: [["person", "pedestrian"]].',
                )
            )
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
    fallback = ClassRow("", None, NEW)
    if isinstance(init, str):
        row, problem = _start("", init, source)
        return {}, row or fallback, [problem] if problem else []
    rows: dict[str, ClassRow] = {}
    problems = []
    for pair in init:
        row, problem = _start_of(pair, source, target)
        if row is not None and rows.setdefault(row.target, row) != row:
            problem = Problem(
                "new_class_init",
                f"NEW_CLASS_INIT starts {row.target!r} twice, and differently.",
                "Leave one of the pairs; CLASS_MAP pairs average several source classes.",
            )
        problems += [problem] if problem else []
    return rows, fallback, problems


def _start_of(
    pair: Sequence[str], source: Sequence[str], target: Sequence[str]
) -> tuple[ClassRow | None, Problem | None]:
    if len(pair) != 2 or isinstance(pair, str):
        return None, Problem(
            "new_class_init",
            f"NEW_CLASS_INIT holds {pair!r}, not a pair of names.",
            'Write pairs of a new class and its start: [["van", "truck"], ["kite", "mean"]].',
        )
    name = find_class(pair[0], target)
    if name is None:
        return None, _unknown("NEW_CLASS_INIT", pair[0], "target", target)
    own = find_class(name, source)
    if own is not None:
        return None, Problem(
            "new_class_init",
            f"NEW_CLASS_INIT starts {name!r}, which is not new: the source has {own!r}.",
            "Leave it out, or pair the two classes in CLASS_MAP.",
        )
    return _start(name, pair[1], source)


def _start(name: str, init: str, source: Sequence[str]) -> tuple[ClassRow | None, Problem | None]:
    """The row of the new class ``name``: "default", "mean", or of a source class."""
    if init in ("default", "mean"):
        return ClassRow(name, None, MEAN if init == "mean" else NEW), None
    parent = find_class(init, source)
    if parent is None:
        return None, _unknown("NEW_CLASS_INIT", init, "source", source)
    return ClassRow(name, parent, PARENT), None


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
    return Problem(
        "class_map" if key == "CLASS_MAP" else "new_class_init",
        f"{key} names the {side} class {name!r}, which is none of {shown(names)}.",
        f"Did you mean {near[0]!r}?" if near else f"Use a name of the {side}'s list.",
    )


def _no_match(source: Sequence[str], target: Sequence[str]) -> Problem:
    return Problem(
        "no_class_matches",
        f"KEEP class_rows, but no target class ({shown(target)}) has a source class "
        f"({shown(source)}).",
        "Pair them in MODEL.TRANSFER.CLASS_MAP, or use KEEP all_but_predictors.",
    )


def shown(names: Sequence[str], most: int = 8) -> str:
    """``'a', 'b', ... (80)``: a list of names that fits into a sentence."""
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text}, ... ({len(names)} names)"
