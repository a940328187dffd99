"""A cause of low AP, and when a size is the point of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: points of AP that are not worth a word
NEGLIGIBLE = 0.5
#: a share that makes one part of something the point of it
MOST, HALF = 0.6, 0.5
#: how much more often than elsewhere something must go wrong at one size
_OFTENER = 1.5


@dataclass(frozen=True)
class Cause:
    """Why AP is low, in one word of the table below, and how much of AP it costs.

    Attributes:
        name: a condition of :mod:`conditions <transfer_maskrcnn.evaluation.explain.conditions>`, or
            a kind of mistake.
        gain: points of AP, or of objects in a hundred that it keeps from being found.
        size: "small", "medium" or "large" where most of it lies there, and more than the number of
            such objects explains; else "".
    """

    name: str
    gain: float
    size: str = ""


def standing_out(bad: Mapping[str, float], objects: Mapping[str, int]) -> str:
    """The size that has most of what is bad, and more for each of its objects than any other size.

    "" where there is none, or objects are of one size alone.
    """
    total = sum(bad.values())
    for size, amount in bad.items():
        others = [other for other in bad if other != size and objects[other]]
        oftener = all(
            amount * objects[other] >= _OFTENER * bad[other] * objects[size] for other in others
        )
        if total > 0 and others and amount >= MOST * total and oftener:
            return size
    return ""
