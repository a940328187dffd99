"""Numbers and names of the result files as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "–"

_KEPT = {
    "random_init": "nothing: every weight starts at random",
    "backbone": "the backbone",
    "backbone_fpn": "backbone and FPN",
    "backbone_fpn_rpn": "backbone, FPN and RPN",
    "all_but_predictors": "everything but the predictors",
    "class_rows": "everything; predictors class by class, by name",
}
_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}

# In the order in which an image passes through the network; the first that fits names a tensor.
_PARTS = [
    *((rf"(^|\.){stage}(\.|$)", f"backbone {stage}") for stage in ("stem", "res2", "res3")),
    *((rf"(^|\.){stage}(\.|$)", f"backbone {stage}") for stage in ("res4", "res5")),
    (r"(^|[._])(fpn|simfp)(_|\.|$)|(^|\.)top_block(\.|$)", "FPN"),
    (r"^backbone(\.|$)", "backbone"),
    (r"^proposal_generator(\.|$)|(^|\.)rpn_head(\.|$)", "RPN"),
    (r"(^|\.)box_head(\.|$)", "box head"),
    (r"(^|\.)cls_score(\.|$)", "class predictor"),
    (r"(^|\.)bbox_pred(\.|$)", "box predictor"),
    (r"(^|\.)mask_head(?!\.predictor)(\.|$)", "mask head"),
    (r"(^|\.)mask_head\.predictor(\.|$)", "mask predictor"),
    (r"(^|\.)keypoint_head(\.|$)", "keypoint head"),
]
_PART_NAMES = [name for _, name in _PARTS]
_PARTS_COMPILED = [(re.compile(pattern), name) for pattern, name in _PARTS]


def decimal(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """``-0.26`` -> "−0.3"; None -> a dash. ``sign``: a plus before positive numbers, too."""
    if value is None:
        return UNKNOWN
    rounded = round(value, digits) + 0.0  # -0.0 becomes 0.0
    text = f"{rounded:{'+' if sign and rounded else ''},.{digits}f}"
    return text.replace("-", "−")


def count(value: float | None) -> str:
    """``1219584`` -> "1,219,584"; None -> a dash."""
    return decimal(value, 0)


def interval(bounds: tuple[float, float] | None, sign: bool = False) -> str:
    """``(25.1, 32.04)`` -> "25.1 to 32.0"; None -> a dash."""
    if bounds is None:
        return UNKNOWN
    return " to ".join(decimal(bound, 1, sign) for bound in bounds)


def percent(share: float | None) -> str:
    """``0.9996`` -> "99.9 %": rounded down, so that "100 %" means that nothing is missing."""
    if share is None:
        return UNKNOWN
    if share == int(share):
        return f"{share:.0%}".replace("%", " %")
    return f"{math.floor(share * 1000) / 10:.1f} %"


def drift(share: float | None) -> str:
    """A relative distance with two digits: ``0.01342`` -> "1.3 %"."""
    if share is None:
        return UNKNOWN
    if share == 0:
        return "0 %"
    digits = max(0, 1 - math.floor(math.log10(share * 100)))
    return f"{share * 100:,.{min(digits, 4)}f} %"


def listed(items: Iterable[Any]) -> str:
    """``[0, 1, 2]`` -> "0, 1 and 2"."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def either(items: Iterable[Any]) -> str:
    """``[12, 24, 48]`` -> "12, 24 or 48"."""
    return " or ".join(listed(items).rsplit(" and ", 1))


def plural(number: float, word: str) -> str:
    """``(1, "image")`` -> "1 image", ``(1200, "image")`` -> "1,200 images"."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def few(items: Sequence[str], most: int) -> str:
    """The first items of a list that may be long."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def short(name: str, most: int = 24) -> str:
    """A name that is too long for a plot loses its middle."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[-(most - 1 - head) :]}"


def metric_name(metric: str) -> str:
    """``segm/AP50`` -> "mask AP50"; what is no metric of a known task stays as it is."""
    task, _, figure = metric.partition("/")
    return f"{_TASKS[task]} {figure}" if task in _TASKS and figure else metric


def task_name(task: str) -> str:
    """``segm`` -> "mask"."""
    return _TASKS.get(task, task)


def kept(keep: str) -> str:
    """A value of ``MODEL.TRANSFER.KEEP`` in words; module prefixes stay as they are."""
    return _KEPT.get(keep, keep)


def part_name(tensor: str) -> str:
    """``backbone.bottom_up.res2`` -> "backbone res2"; an unknown name stays as it is."""
    return next((name for found, name in _PARTS_COMPILED if found.search(tensor)), tensor)


def named_parts(tensors: Iterable[str]) -> dict[str, str]:
    """Name in a file -> name for readers, in the order of the network.

    Two that would be called the same, as the stages of Cascade R-CNN, keep their own names.
    """
    names = {tensor: part_name(tensor) for tensor in tensors}
    called = list(names.values())
    ordered = sorted(names, key=lambda tensor: (part_rank(names[tensor]), tensor))
    return {t: names[t] if called.count(names[t]) == 1 else t for t in ordered}


def pieces(name: str) -> list[str]:
    """A long name cut where a line may break: after ``_``, ``@``, ``/``, ``.`` and ``-``."""
    return re.findall(r".*?(?:[_@/.-]+|$)", name, re.DOTALL)[:-1] or [name]


def part_rank(name: str) -> int:
    """Where a part lies in the network; unknown ones come last."""
    return _PART_NAMES.index(name) if name in _PART_NAMES else len(_PART_NAMES)


def why_undefined(figure: str, results: Mapping[str, float | None]) -> str:
    """Why COCO has no number for a figure of one task.

    Args:
        figure: "AP", "APs", "AP-star".
        results: all figures of the task; detectron2 leaves all undefined where nothing is detected.
    """
    if results.get("AP") is None:
        return "nothing detected"
    if figure in ("APs", "APm", "APl"):
        return "no object of that size"
    return "no object of this class" if figure.startswith("AP-") else "undefined"
