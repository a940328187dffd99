"""A transfer plan as text for an 80-column terminal."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transfer_maskrcnn.surgery.classes import EQUAL
from transfer_maskrcnn.surgery.parts import group_of

if TYPE_CHECKING:
    from transfer_maskrcnn.surgery.plan import TransferPlan

WIDTH = 80
_MANY_EQUAL = 8
_NAME, _FATE, _TENSORS, _COUNT = 44, 11, 7, 14


def row(name: str, fate: str, tensors: str, count: str) -> str:
    """One line of the table; a name that is too long loses its middle."""
    if len(name) > _NAME:
        name = f"{name[:12]}...{name[-(_NAME - 15) :]}"
    return f"{name:<{_NAME}} {fate:<{_FATE}} {tensors:>{_TENSORS}} {count:>{_COUNT}}"


def plan_table(plan: "TransferPlan") -> str:
    """See :meth:`TransferPlan.table`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for tensor in plan.tensors:
        group = group_of(tensor.target or tensor.source or "")
        total = groups.setdefault((group, tensor.fate), [0, 0])
        total[0] += 1
        total[1] += tensor.moved if tensor.fate == "rows" else tensor.parameters
    lines = [f"weights: {plan.source or 'none'}", row("part", "fate", "tensors", "parameters")]
    lines.append("-" * WIDTH)
    lines += [row(name, fate, str(n), f"{count:,}") for (name, fate), (n, count) in groups.items()]
    lines.append("-" * WIDTH)
    for fate, sums in plan.totals().items():
        if sums["tensors"]:
            count = sums["moved"] if fate == "rows" else sums["parameters"]
            lines.append(row("total", fate, str(sums["tensors"]), f"{count:,}"))
    share = f"{math.floor(plan.loaded_fraction() * 1000) / 10:.1f}%"  # 100.0% only if nothing is missing
    lines.append(f"{share} of the target's parameters are loaded from the source.")
    for text in (*_reasons(plan), *_classes(plan), *_notes(plan)):
        lines += wrapped(text)
    return "\n".join(lines)


def _notes(plan: "TransferPlan") -> list[str]:
    # what "stay initialised" notes say stands among the reasons already
    return [f"note: {note}" for note in plan.notes if " stay initialised: " not in note]


def _reasons(plan: "TransferPlan") -> list[str]:
    """A sentence a reason: which fates it explains, and where."""
    told: dict[str, tuple[list[str], list[str]]] = {}
    for tensor in plan.tensors:
        if tensor.fate != "kept":
            fates, groups = told.setdefault(tensor.reason, ([], []))
            group = group_of(tensor.target or tensor.source or "")
            fates += [tensor.fate] if tensor.fate not in fates else []
            groups += [group] if group not in groups else []
    return [
        f"{' and '.join(fates)}: {few(groups, 3)}: {reason}"
        for reason, (fates, groups) in told.items()
    ]


def _classes(plan: "TransferPlan") -> list[str]:
    """A sentence a class that has a source; one for many of equal name, and for all the others."""
    equal = [repr(row.target) for row in plan.classes if row.how == EQUAL]
    many = len(equal) > _MANY_EQUAL
    named = [f"class {few(equal, _MANY_EQUAL)}: own rows, {EQUAL}"] if many else []
    others: dict[str, list[str]] = {}
    for class_row in plan.classes:
        if class_row.averaged:
            parents = ", ".join(map(repr, class_row.averaged))
            named.append(f"class {class_row.target!r}: mean of the rows of {parents}, class map")
        elif class_row.source is None:
            others.setdefault(class_row.how, []).append(repr(class_row.target))
        elif not (many and class_row.how == EQUAL):
            named.append(
                f"class {class_row.target!r}: rows of {class_row.source!r}, {class_row.how}"
            )
    return named + [f"class {few(names, 8)}: {how}" for how, names in others.items()]


def few(items: Sequence[str], most: int) -> str:
    """The first items of a list that may be long."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def wrapped(text: str) -> list[str]:
    """``text`` in lines of at most 80 columns, continued with an indent."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
