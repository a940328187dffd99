"""What is odd about the classes of a dataset: their names, and how often each is there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.doctor.subject import Loaded
from transfer_maskrcnn.text import plural

_NUMBERED = re.compile(r"(.*\D)[_\- #(]?(\d+)\)?")
_FEWEST_NUMBERED = 3  # of one stem: "type1" and "type2" may well be classes
_FEW_INSTANCES = 10
_IMBALANCE = 10.0  # from here on DATALOADER.REPEAT_IMBALANCE acts


def look_at_classes(loaded: Loaded) -> Iterator[Finding]:
    """Names that look wrong, classes that are empty, rare or overwhelming."""
    counts = loaded.class_counts()
    yield from _numbered(loaded.name, counts)
    yield from _similar(loaded.name, counts)
    background = [name for name in counts if name.strip("_ ").casefold() in ("background", "bg")]
    if background:
        yield _named("background_class", loaded.name, background, counts)
    if not any(counts.values()):
        files = [Place(loaded.subject.annotations or loaded.name)]
        yield finding("nothing_to_learn", loaded.name, files)
    unused = [name for name, count in counts.items() if not count]
    if unused and any(counts.values()) and not loaded.subject.is_validation:
        yield _named("class_unused", loaded.name, unused, counts)
    yield from _rare(loaded, counts)


def compare_classes(train: Loaded, validation: Loaded) -> Iterator[Finding]:
    """Classes that only one of two sets has."""
    if train.dataset.classes != validation.dataset.classes:
        names, others = (", ".join(d.dataset.classes[:12]) for d in (train, validation))
        place = Place(train.subject.annotations or train.name)
        yield finding(
            *("classes_differ", train.name, [place]),
            other=validation.name,
            names=names,
            others=others,
        )
    learnt, scored = train.class_counts(), validation.class_counts()
    missing = [name for name, count in learnt.items() if count and not scored.get(name)]
    unknown = [name for name, count in scored.items() if count and not learnt.get(name)]
    slips = [(a, b) for a in missing for b in unknown if _differ_by_little(a, b)]
    if slips:
        yield _pairs_of_names(validation.name, slips, learnt, scored)
        missing = [name for name in missing if all(name != a for a, _ in slips)]
        unknown = [name for name in unknown if all(name != b for _, b in slips)]
    if missing:
        yield _named("class_not_in_val", validation.name, missing, learnt)
    if unknown:
        yield _named("class_not_in_train", train.name, unknown, scored, other=validation.name)


def _named(
    kind: str, dataset: str, names: Sequence[str], counts: Mapping[str, int], **values: Any
) -> Finding:
    shown = _list(names)
    places = [Place(f"class {name!r}", note=plural(counts[name], "instance")) for name in names]
    return finding(kind, dataset, places, names=shown, **values)


def _list(names: Sequence[str], most: int = 6) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _numbered(dataset: str, counts: Mapping[str, int]) -> Iterator[Finding]:
    stems: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        match = _NUMBERED.fullmatch(name)
        if match:
            stems[match.group(1).rstrip("_- #(").lower()].append(name)
    suspicious = {stem: names for stem, names in stems.items() if len(names) >= _FEWEST_NUMBERED}
    if suspicious:
        names = [name for group in suspicious.values() for name in group]
        stem, group = next(iter(suspicious.items()))
        example = "label_map: {" + ", ".join(f"{n}: {stem}" for n in group[:2]) + ", ...}"
        yield _named("instance_numbers", dataset, names, counts, example=example)


def _similar(dataset: str, counts: Mapping[str, int]) -> Iterator[Finding]:
    pairs = [(a, b) for a, b in combinations(counts, 2) if _differ_by_little(a, b)]
    if pairs:
        yield _pairs_of_names(dataset, pairs, counts, counts)


def _pairs_of_names(
    dataset: str,
    pairs: Sequence[tuple[str, str]],
    counts: Mapping[str, int],
    others: Mapping[str, int],
) -> Finding:
    places = [
        Place(f"classes {a!r} and {b!r}", note=f"{counts[a]} and {others[b]} instances")
        for a, b in pairs
    ]
    shown = "; ".join(f"{a!r} and {b!r}" for a, b in pairs[:4])
    return finding("similar_names", dataset, places, names=shown)


def _differ_by_little(a: str, b: str) -> bool:
    """By case, spaces, hyphens, a plural s, or one slip of the pen in a word of five letters."""
    plain = [re.sub(r"[\s_\-.]+", "", name).casefold() for name in (a, b)]
    short, long = sorted(plain, key=len)
    if short == long or long in (short + "s", short + "es"):
        return True
    if re.search(r"\d", short + long):
        return False  # "type 1" and "type 2" differ by what matters
    return len(short) >= 5 and _one_edit(short, long)


def _one_edit(short: str, long: str) -> bool:
    """Whether one letter was changed, added or swapped with its neighbour."""
    if len(long) - len(short) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), -1)
    if start < 0:
        return True
    a, b = short[start:], long[start:]
    if len(short) < len(long):
        return a == b[1:]
    return a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def _rare(loaded: Loaded, counts: Mapping[str, int]) -> Iterator[Finding]:
    present = {name: count for name, count in counts.items() if count}
    if not present or loaded.subject.is_validation:
        return
    few = [name for name, count in present.items() if count < _FEW_INSTANCES]
    if few:
        yield _named("few_examples", loaded.name, few, counts, least=_FEW_INSTANCES)
    most, fewest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    ratio = present[most] / present[fewest]
    if ratio > _IMBALANCE:
        places = [
            Place(f"class {n!r}", note=plural(present[n], "instance")) for n in (most, fewest)
        ]
        values = {"most": repr(most), "fewest": repr(fewest)}
        yield finding("imbalance", loaded.name, places, int(ratio), **values)
