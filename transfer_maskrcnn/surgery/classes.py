"""Class names: which target class gets the rows of which source class. By name, never by index."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transfer_maskrcnn.surgery.problems import Problem

ClassMap = Sequence[Sequence[str]]

EQUAL = "equal name"
FOLDED = "equal but for case, space, underscore or plural"
MAPPED = "class map"
PARENT = "parent class"
MEAN = "mean of all source rows"
NEW = "new class, as detectron2 initialises it"

# model-zoo files lie under <family>/<config>/<id>/model_final_<hash>.pkl
_ZOO = re.compile(r"([\w.-]+)/([\w.-]+)/\d{8,9}/model_final_[0-9a-f]{6}\.pkl(?:\?.*)?$")
_ZOO_DATASETS = {
    "COCO-Detection": "coco_2017_val",
    "COCO-InstanceSegmentation": "coco_2017_val",
    "COCO-PanopticSegmentation": "coco_2017_val",
    "COCO-Keypoints": "keypoints_coco_2017_val",
    "Detectron1-Comparisons": "coco_2017_val",
    "Misc": "coco_2017_val",
    "new_baselines": "coco_2017_val",
    "LVISv0.5-InstanceSegmentation": "lvis_v0.5_val",
    "LVISv1-InstanceSegmentation": "lvis_v1_val",
}


@dataclass(frozen=True)
class ClassRow:
    """Where one target class gets its rows: a source class, or none (``source`` is None)."""

    target: str
    source: str | None
    how: str


def zoo_dataset(uri: str) -> str | None:
    """The registered dataset whose class names a model-zoo address or its cached file has."""
    found = _ZOO.search(uri)
    if found is None:
        return None
    if found[1] == "Detectron1-Comparisons" and "keypoint" in uri:
        return "keypoints_coco_2017_val"
    return _ZOO_DATASETS.get(found[1])


def zoo_config(uri: str) -> str | None:
    """The zoo's config of a model-zoo file: ``COCO-Detection/faster_rcnn_R_50_C4_1x``."""
    found = _ZOO.search(uri)
    return None if found is None else f"{found[1]}/{found[2]}"


def fold(name: str) -> str:
    """``Traffic_Light`` -> ``trafficlight``: case, space, underscore and hyphen do not count."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def same_name(a: str, b: str) -> bool:
    """Whether two names are equal but for case, space, underscore or an English plural."""
    a, b = fold(a), fold(b)
    return bool(a) and (a == b or b in _plurals(a) or a in _plurals(b))


def _plurals(name: str) -> set[str]:
    return {name + "s", name + "es", *([name[:-1] + "ies"] if name.endswith("y") else [])}


def match_classes(
    source: Sequence[str], target: Sequence[str], class_map: ClassMap, new_class_init: str
) -> tuple[tuple[ClassRow, ...], tuple[Problem, ...]]:
    """Finds the source class of every target class.

    Args:
        source: class names in the order of the source's rows ("" for a row without a class).
        target: class names in the order of the target's rows.
        class_map: (source class, target class) pairs; they win over equal names.
        new_class_init: "default", "mean", or the source class that new classes start from.

    Returns:
        one row a target class, in order; and what is wrong with the names.
    """
    mapped, problems = _mapped(source, target, class_map)
    new = ClassRow("", None, MEAN if new_class_init == "mean" else NEW)
    if new_class_init not in ("default", "mean"):
        parent = _find(new_class_init, source)
        if parent is None:
            problems.append(_unknown("NEW_CLASS_INIT", new_class_init, "source", source))
        else:
            new = ClassRow("", parent, PARENT)
    rows = []
    for name in target:
        if name in mapped:
            rows.append(ClassRow(name, mapped[name], MAPPED))
        elif (found := _find(name, source)) is not None:
            rows.append(ClassRow(name, found, EQUAL if found == name else FOLDED))
        else:
            rows.append(ClassRow(name, new.source, new.how))
    if not any(row.how in (EQUAL, FOLDED, MAPPED, PARENT) for row in rows):
        problems.append(_no_match(source, target))
    return tuple(rows), tuple(problems)


def _mapped(
    source: Sequence[str], target: Sequence[str], class_map: ClassMap
) -> tuple[dict[str, str], list[Problem]]:
    mapped: dict[str, str] = {}
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
        old, new = _find(pair[0], source), _find(pair[1], target)
        if old is None:
            problems.append(_unknown("CLASS_MAP", pair[0], "source", source))
        if new is None:
            problems.append(_unknown("CLASS_MAP", pair[1], "target", target))
        if old is None or new is None:
            continue
        if mapped.setdefault(new, old) != old:
            problems.append(
                Problem(
                    "class_map",
                    f"CLASS_MAP gives the target class {new!r} two source classes, "
                    f"{mapped[new]!r} and {old!r}.",
                    "Leave one of them; a source class may serve many targets, not the reverse.",
                )
            )
    return mapped, problems


def _find(name: str, names: Sequence[str]) -> str | None:
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
