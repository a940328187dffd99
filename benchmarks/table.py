"""The benchmark's text and JSON."""

from __future__ import annotations

import statistics
from typing import Any

from tabulate import tabulate

from benchmarks.rows import Row

_SHOWN_FACTS = ("foreground RoIs", "detections", "images")


Peaks = dict[str, dict[str, float]]


def limit(row: Row, side: str, peaks: Peaks) -> float | None:
    """Seconds that the side cannot take less than here: its FLOPs or bytes over the measured peak.

    Args:
        peaks: by device: "fp32" and "fast" FLOPs and "bytes" a second. This project's own side
            computes in the fastest type that the device has, the others in fp32.
    """
    facts, peak = row.facts.get(side, {}), peaks[row.device]
    if "flops" in facts:
        flops: float = facts["flops"]
        return flops / peak["fast" if side == "here" else "fp32"]
    if "bytes" in facts:
        read: float = facts["bytes"]
        return read / peak["bytes"]
    return None


def text_of(row: Row, peaks: Peaks) -> str:
    """One row as a small table: a line a side."""
    first = next(iter(row.seconds))
    lines = []
    for side in row.seconds:
        facts = row.facts.get(side, {})
        ratio = "" if side == first else f"{statistics.median(row.ratios(side)):.2f}x"
        bound = limit(row, side, peaks)
        lines.append(
            [
                side,
                f"{row.median(side):.3f}",
                ratio,
                "" if bound is None else f"{bound:.3f}",
                f"{facts['peak_mb']:.0f}" if "peak_mb" in facts else "",
                ", ".join(f"{facts[k]:g} {k}" for k in _SHOWN_FACTS if k in facts),
            ]
        )
    head = ["", "s", "faster", "limit, s", "MB", ""]
    body = tabulate(lines, head, disable_numparse=True, colalign=("left", *["right"] * 4, "left"))
    runs = len(next(iter(row.seconds.values())))
    return f"{row.name} (median of {runs})\n{body}" + (f"\n{row.note}" if row.note else "")


def json_of(row: Row, peaks: Peaks) -> dict[str, Any]:
    """One row for ``--json``: every run, medians, ratios and facts."""
    sides = {}
    for side, seconds in row.seconds.items():
        facts = row.facts.get(side, {})
        sides[side] = {
            "seconds": seconds,
            "median": row.median(side),
            "ratio": statistics.median(row.ratios(side)),
            "limit": limit(row, side, peaks),
            **facts,
        }
    return {"row": row.name, "note": row.note, "sides": sides}
