"""What really moved between two weight files, part by part: fine-tuning's own trace."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import align, group_of, grouped
from transfer_maskrcnn.text import WIDTH

STATES = ("identical", "changed", "other shape", "only in a", "only in b")


@dataclass(frozen=True)
class TensorDiff:
    """One tensor of two files.

    Attributes:
        name: in ``b``, or in ``a`` where only that has it.
        state: one of :data:`STATES`.
        rows, rows_changed: slices along the first axis, and how many of them differ; 0 unless both
            files have the tensor in one shape.
        change, norm: L2 norms of ``b - a`` and of ``a``; 0 for tensors of integers.
    """

    name: str
    state: str
    rows: int = 0
    rows_changed: int = 0
    change: float = 0.0
    norm: float = 0.0


@dataclass(frozen=True)
class WeightDiff:
    """Every tensor of two weight files, each once. ``a`` and ``b`` are their paths."""

    a: str
    b: str
    tensors: tuple[TensorDiff, ...]

    def groups(self) -> dict[str, dict[str, Any]]:
        """Part -> number of tensors in each state, rows, and the relative distance of the part."""
        members = grouped(self.tensors, lambda tensor: group_of(tensor.name))
        return {name: _summed(tensors) for name, tensors in members.items()}

    def to_json(self) -> str:
        """All tensors and the sums of :meth:`groups`."""
        return json.dumps({**asdict(self), "groups": self.groups()}, indent=1) + "\n"

    def table(self) -> str:
        """For an 80-column terminal; the distance is ``|b - a| / |a|`` over the part's tensors."""
        lines = [
            f"a: {self.a}",
            f"b: {self.b}",
            f"{'part':<37} {'identical':>9} {'changed':>9} {'rows changed':>13} {'distance':>8}",
            "-" * WIDTH,
        ]
        for name, part in self.groups().items():
            name = name if len(name) <= 37 else f"...{name[-34:]}"
            both = part["identical"] + part["changed"]
            rows = f"{part['rows_changed']}/{part['rows']}"
            numbers = f"{rows:>13} {part['distance']:>8.4f}" if both else ""
            lines.append(
                f"{name:<37} {part['identical']:>9} {part['changed']:>9} {numbers}".rstrip()
            )
            other = [f"{part[s]} {s}" for s in STATES[2:] if part[s]]
            lines += [f"    {', '.join(other)}"] if other else []
        return "\n".join(lines)


def _summed(tensors: Sequence[TensorDiff]) -> dict[str, Any]:
    norm = math.hypot(*(t.norm for t in tensors))
    change = math.hypot(*(t.change for t in tensors))
    return {
        **{state: sum(t.state == state for t in tensors) for state in STATES},
        "rows": sum(t.rows for t in tensors),
        "rows_changed": sum(t.rows_changed for t in tensors),
        "distance": change / norm if norm else float(change > 0),
    }


def diff_weights(a: SourceWeights, b: SourceWeights) -> WeightDiff:
    """Compares two weight files tensor by tensor, paired by name as a transfer from a to b would.

    Values are compared as the file of lower precision stores them, so that a file and its
    half-precision copy are identical. NaN equals NaN.
    """
    partner, _ = align(a.tensors, b.tensors)
    tensors = [
        _compare(name, a.tensors.get(partner.get(name, "")), b.tensors[name]) for name in b.tensors
    ]
    rest = a.tensors.keys() - partner.values()
    tensors += [TensorDiff(name, "only in a") for name in a.tensors if name in rest]
    return WeightDiff(a.path, b.path, tuple(tensors))


def _compare(name: str, a: Tensor | None, b: Tensor) -> TensorDiff:
    if a is None:
        return TensorDiff(name, "only in b")
    if a.shape != b.shape:
        return TensorDiff(name, "other shape")
    narrow = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    wide = torch.promote_types(narrow, torch.float32)
    a, b = (torch.atleast_1d(x.to(narrow).to(wide)) for x in (a, b))
    differs = ((a != b) & ~(a.isnan() & b.isnan())).reshape(len(a), -1).any(1)
    changed = int(differs.sum())
    state = "changed" if changed else "identical"
    if not narrow.is_floating_point:  # a BatchNorm's step counter is no weight to measure
        return TensorDiff(name, state, len(a), changed)
    change = float((b - a).norm()) if changed else 0.0
    return TensorDiff(name, state, len(a), changed, change, float(a.norm()))
