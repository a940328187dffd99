"""Classes: which of the target's gets the rows of which of the source's.

By name, never by index.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.names import grouped
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

    @property
    def words(self) -> str:
        """Where the rows come from, as a sentence goes on after the class's name."""
        return self.how.sentence(asdict(self))


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


def find_class(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that means ``name``; None where none or several do."""
    for same in (str.__eq__, lambda a, b: fold(a) == fold(b), same_name):
        found = [other for other in names if other and same(other, name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


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
    problems: list[Problem] = []
    mapped = _mapped(source, target, class_map, problems)
    fallback, started = ClassRow("", None, How.NEW), dict[str, ClassRow]()
    if isinstance(new_class_init, str):
        fallback = _start("", new_class_init, source, problems) or fallback
    else:
        started = _started(source, target, new_class_init, problems)
    rows = []
    for name in target:
        found, parents = find_class(name, source), mapped.get(name, [])
        if name in started:
            rows.append(started[name])
        elif len(parents) > 1:
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
    source: Sequence[str], target: Sequence[str], class_map: ClassMap, problems: list[Problem]
) -> dict[str, list[str]]:
    """Target class -> its source classes, each once, in the order of the pairs."""
    mapped: dict[str, list[str]] = {}
    for there, here in _pairs("CLASS_MAP", class_map, problems):
        old = _find("CLASS_MAP", there, "source", source, problems)
        new = _find("CLASS_MAP", here, "target", target, problems)
        if old is not None and new is not None and old not in mapped.setdefault(new, []):
            mapped[new].append(old)
    return mapped


def _started(
    source: Sequence[str], target: Sequence[str], init: ClassMap, problems: list[Problem]
) -> dict[str, ClassRow]:
    """Target class -> its row, of the new classes that NEW_CLASS_INIT names."""
    rows: dict[str, ClassRow] = {}
    for given, start in _pairs("NEW_CLASS_INIT", init, problems):
        name = _find("NEW_CLASS_INIT", given, "target", target, problems)
        own = find_class(given if name is None else name, source)
        row = _start(name, start, source, problems) if name and own is None else None
        if name and own is not None:
            problems.append(Problem(Code.NOT_NEW, {"name": name, "own": own}))
        if row is not None and rows.setdefault(row.target, row) != row:
            problems.append(Problem(Code.STARTED_TWICE, {"name": name}))
    return rows


def _pairs(key: str, given: ClassMap, problems: list[Problem]) -> list[Sequence[str]]:
    """Those of ``given`` that are pairs, with a problem for what is none."""
    pairs = [pair for pair in given if len(pair) == 2 and not isinstance(pair, str)]
    wrong = [pair for pair in given if pair not in pairs]
    problems += [Problem(Code.NO_PAIR, {"key": key, "pair": pair}) for pair in wrong]
    return pairs


def _start(name: str, init: str, source: Sequence[str], problems: list[Problem]) -> ClassRow | None:
    """The row of the new class ``name``: "default", "mean", or of a source class."""
    if init in ("default", "mean"):
        return ClassRow(name, None, How.MEAN if init == "mean" else How.NEW)
    parent = _find("NEW_CLASS_INIT", init, "source", source, problems)
    return ClassRow(name, parent, How.PARENT) if parent else None


def _find(
    key: str, name: str, side: str, names: Sequence[str], problems: list[Problem]
) -> str | None:
    """:func:`find_class`, with a problem where there is none."""
    found = find_class(name, names)
    if found is None:
        near = difflib.get_close_matches(name, names, n=1)
        data = {"key": key, "name": name, "side": side, "names": list(names)}
        problems.append(Problem(Code.UNKNOWN_CLASS, {**data, "near": "".join(near)}))
    return found


def extended_classes(source: Sequence[str], dataset: Sequence[str]) -> tuple[str, ...]:
    """The classes of a model that keeps its source's and gains a dataset's: the source's names in
    their order, then the dataset's new ones in theirs.

    A class is not new where :func:`known_classes` finds it in the source. Rows without a class
    ("" in ``source``) are left out.

    Raises:
        ConfigError: two of the dataset's classes are one of the source's.
    """
    named = tuple(dict.fromkeys(name for name in source if name))
    known = known_classes(dataset, named)
    return named + tuple(name for name in dataset if name not in known)


def known_classes(dataset: Sequence[str], model: Sequence[str]) -> dict[str, str]:
    """The class of the model that each of the dataset's is, where there is one.

    The same name; else a name equal but for case, space, underscore or plural, unless the dataset
    has that one, too.

    Raises:
        ConfigError: two of the dataset's classes are one of the model's.
    """
    known = {name: name for name in dataset if name in model}
    free = [name for name in model if name not in known]
    found = {n: own for n in dataset if n not in known and (own := find_class(n, free))}
    for own, names in grouped(found, found.__getitem__).items():
        if len(names) > 1:
            raise ConfigError(
                f"the dataset's classes {names[0]!r} and {names[1]!r} both are the model's class "
                f"{own!r}; rename one of them, or make them one with `merge` where the dataset "
                "is declared"
            )
    return known | found
