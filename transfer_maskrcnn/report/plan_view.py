"""A ``transfer_plan.json`` as a page shows it: by part of the model, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transfer_maskrcnn.report.texts import kept, part_name, part_rank, percent

_FATES = {
    "kept": "kept",
    "rows": "class by class",
    "initialised": "initialised",
    "dropped": "dropped",
}


@dataclass(frozen=True)
class PartRow:
    """Parameters of a part: taken from the source, started anew, and left behind in the source."""

    name: str
    transferred: int
    initialised: int
    dropped: int


@dataclass(frozen=True)
class Reason:
    """Tensors that share a fate and its reason; ``tensors`` holds names and shapes."""

    fate: str
    reason: str
    parameters: int
    tensors: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PlanView:
    """The plan in words, part by part, reason by reason."""

    summary: str
    parts: tuple[PartRow, ...]
    reasons: tuple[Reason, ...]
    classes: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]


def view_plan(plan: dict[str, Any]) -> PlanView | None:
    """The view of a plan's JSON; None where there is none.

    Raises:
        KeyError, TypeError: it is not the JSON of a plan.
    """
    if not plan:
        return None
    keep = plan["keep"] if isinstance(plan["keep"], str) else ", ".join(plan["keep"])
    share = percent(plan["loaded_fraction"])
    problems = (f"{p['text']} {p['remedy']}" for p in plan.get("problems") or ())
    return PlanView(
        f"{share} of the model’s parameters come from {plan['source'] or 'no file'} "
        f"(KEEP {keep}: {kept(keep)}).",
        tuple(_parts(plan["tensors"])),
        tuple(_reasons(plan["tensors"])),
        tuple((c["target"], _source(c), c["how"]) for c in plan.get("classes") or ()),
        (*problems, *(plan.get("notes") or ())),
    )


def _source(row: dict[str, Any]) -> str:
    averaged = row.get("averaged")
    return f"mean of {', '.join(averaged)}" if averaged else row["source"] or "none"


def _parts(tensors: Iterable[dict[str, Any]]) -> list[PartRow]:
    sums: dict[str, list[int]] = {}
    for tensor in tensors:
        total = sums.setdefault(part_name(_module(tensor)), [0, 0, 0])
        if tensor["target"] is None:
            total[2] += tensor["parameters"]
        else:
            total[0] += tensor["moved"]
            total[1] += tensor["parameters"] - tensor["moved"]
    rows = [PartRow(name, *total) for name, total in sums.items() if any(total)]
    return sorted(rows, key=lambda row: part_rank(row.name))


def _module(tensor: dict[str, Any]) -> str:
    """The module that a tensor belongs to: its name without the last piece."""
    name: str = tensor["target"] or tensor["source"]
    return name.rpartition(".")[0] or name


def _reasons(tensors: Iterable[dict[str, Any]]) -> list[Reason]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for tensor in tensors:
        groups.setdefault((tensor["fate"], tensor["reason"]), []).append(tensor)
    ordered = sorted(groups.items(), key=lambda item: list(_FATES).index(item[0][0]))
    return [
        Reason(
            _FATES[fate],
            reason,
            sum(t["parameters"] for t in members),
            tuple((t["target"] or t["source"], _shape(t)) for t in members),
        )
        for (fate, reason), members in ordered
    ]


def _shape(tensor: dict[str, Any]) -> str:
    shape = tensor["target_shape"] or tensor["source_shape"] or []
    return " × ".join(map(str, shape)) or "scalar"
