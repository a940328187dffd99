"""What all pages are made of: templates, pictures, and numbers and names as a reader wants them."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.text import listed, percent, printable

REPORT_FILE = "report.html"
UNKNOWN = "–"
Figures = Mapping[str, float | None]  # None where the result is undefined

_KEPT = {
    "random_init": "nothing: every weight starts at random",
    "backbone": "the backbone",
    "backbone_fpn": "backbone and FPN",
    "backbone_fpn_rpn": "backbone, FPN and RPN",
    "all_but_predictors": "everything but the predictors",
    "class_rows": "everything; predictors class by class, by name",
}
_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
_FROM_THE_RIGHT = (
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001eeff]+"
)
_RIGHT_TO_LEFT = re.compile(rf"{_FROM_THE_RIGHT}(?:[\s_-]+{_FROM_THE_RIGHT})*")
_LEAST, _MOST = 1e-3, 1.0  # relative distances where the shades begin and end


@dataclass(frozen=True)
class Picture:
    """An image within a page. ``kind``: png or jpeg; ``alt``: what it shows, in words."""

    data: bytes
    kind: str
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class HeatCell:
    """A number in words, and how deep the colour behind it is: from 0, none, to 1."""

    text: str
    depth: float = 0.0


def drift_table(columns: Mapping[str, Figures]) -> dict[str, Any] | None:
    """How far each part moved, ``|final - initial| / |initial|``, shaded on a logarithmic scale.

    Args:
        columns: title -> part, as named in ``drift.json`` -> distance.

    Returns:
        ``columns``, and ``rows`` of a part and its cells; None where no distance is known.
    """
    if all(distance is None for column in columns.values() for distance in column.values()):
        return None
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows = [(part, [_moved(column.get(part)) for column in columns.values()]) for part in parts]
    return {"columns": list(columns), "rows": rows}


def _moved(value: float | None) -> HeatCell:
    depth = math.log(max(value or 0, _LEAST) / _LEAST) / math.log(_MOST / _LEAST)
    return HeatCell(drift(value), round(min(depth, 1.0), 2))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


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


def interval(bounds: Sequence[float | None] | None, sign: bool = False) -> str:
    """``(25.1, 32.04)`` -> "25.1 to 32.0"; a dash where either bound is None."""
    if bounds is None or None in bounds:
        return UNKNOWN
    return " to ".join(decimal(bound, 1, sign) for bound in bounds)


def drift(share: float | None) -> str:
    """A relative distance with two digits: ``0.01342`` -> "1.3 %"."""
    if not share:
        return UNKNOWN if share is None else "0 %"
    digits = max(0, 1 - math.floor(math.log10(share * 100)))
    return f"{share * 100:,.{min(digits, 4)}f} %"


def either(items: Iterable[Any]) -> str:
    """``[12, 24, 48]`` -> "12, 24 or 48"."""
    return " or ".join(listed(items).rsplit(" and ", 1))


def described(facts: Any) -> str:
    """``{"torch": "2.1", "numpy": "2.0"}`` -> "torch 2.1, numpy 2.0"; anything else as it is."""
    if not isinstance(facts, Mapping):
        return str(facts)
    return ", ".join(f"{name} {value}" for name, value in facts.items())


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


def pieces(name: str) -> list[str]:
    """A long name cut where a line may break: after ``_``, ``@``, ``/``, ``.`` and ``-``."""
    return re.findall(r".*?(?:[_@/.-]+|$)", name, re.DOTALL)[:-1] or [name]


def ap_text(figure: str, results: Figures) -> str:
    """A figure of one task, or why COCO has no number for it.

    Args:
        figure: "AP", "APs", "AP-star".
        results: all figures of the task; detectron2 leaves all undefined where nothing is detected.
    """
    value = results.get(figure)
    if value is not None:
        return decimal(value)
    if results.get("AP") is None:
        return "nothing detected"
    if figure in ("APs", "APm", "APl"):
        return "no object of that size"
    return "no object of this class" if figure.startswith("AP-") else "undefined"


def shown(value: Any) -> Any:
    """What a template writes; of a text, as it is told of: what would steer a reader's screen is
    written as Python writes it, and words from right to left leave what is beside them in place."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    # Isolated by characters, which attributes can hold, too.
    return _RIGHT_TO_LEFT.sub("\u2068\\g<0>\u2069", "\n".join(printable(value.split("\n"))))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("transfer_maskrcnn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (decimal, count, interval, pieces, listed, percent)
    environment.filters.update({show.__name__: show for show in filters})
    return environment


def write_page(
    folder: Path, template: str, content: dict[str, Any], name: str = REPORT_FILE
) -> Path:
    """Write a page that needs nothing beside itself into ``folder``, whole or not at all.

    Args:
        template: the name of a file in ``templates``.
        content: its variables. All text is escaped.
        name: of the page's file.

    Returns:
        its path.
    """
    output = folder / name
    text = _environment().get_template(template).render(content)
    # A file's name may have bytes that are no text.
    write_text(output, text.encode(errors="backslashreplace").decode())
    return output
