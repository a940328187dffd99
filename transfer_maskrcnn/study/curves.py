"""What a learning curve says: how good a run was over its budget, and how soon it was good enough.

A curve is a sequence of (iteration, AP), in any order, AP from 0 to 100. An AP of None or NaN,
which COCO gives for a model that detects nothing, is 0. A curve without a point at iteration 0
begins there with AP 0; between points it is linear, and after the last it stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from transfer_maskrcnn.errors import TransferError

Curve = Sequence[tuple[float, float | None]]


def area_under_curve(points: Curve, last: float) -> float:
    """Mean AP from iteration 0 to ``last``, by the trapezoid rule.

    Raises:
        TransferError: ``last`` is not above 0.
    """
    _require_iterations(last)
    iterations, ap = _filled(points)
    inside = iterations < last
    x = np.append(iterations[inside], last)
    y = np.append(ap[inside], np.interp(last, iterations, ap))
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / last)


def iterations_to_reach(points: Curve, level: float) -> float | None:
    """The first iteration, perhaps between two points, with an AP of ``level`` or above.

    Returns:
        0.0 where the starting weights are that good; None where the curve never is.
    """
    iterations, ap = _filled(points)
    above = np.flatnonzero(ap >= level)
    if not len(above):
        return None
    first = above[0]
    if first == 0:
        return 0.0
    before = first - 1
    share = (level - ap[before]) / (ap[first] - ap[before])
    return float(iterations[before] + share * (iterations[first] - iterations[before]))


def speed_up(own: float | None, reference_budget: float) -> float | None:
    """How many times sooner than a reference's whole budget a level was reached.

    Args:
        own: iterations that it took, as ``iterations_to_reach`` gives them.
        reference_budget: iterations of the reference.

    Returns:
        below 1 where it took longer; infinity where it took none; None where it never was.

    Raises:
        TransferError: ``reference_budget`` is not above 0.
    """
    _require_iterations(reference_budget)
    if own is None:
        return None
    return reference_budget / own if own > 0 else math.inf


def speed_up_in_words(own: float | None, reference_budget: float) -> str:
    """``speed_up`` as the end of a sentence about a variant: "reaches it 6.2x sooner"."""
    factor = speed_up(own, reference_budget)
    if factor is None:
        return "does not reach it"
    if factor == math.inf:
        return "is there before the first iteration"
    ratio = max(factor, 1 / factor)
    # between two far points of a curve, the place of a level is known roughly
    times = f"{ratio:.1f}x" if ratio < 10 else f"about {ratio:.0f}x"
    if times == "1.0x":
        return "reaches it just as soon"
    return f"reaches it {times} {'sooner' if factor > 1 else 'later'}"


def _filled(points: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Iterations from 0 on, ascending, and the AP at each."""
    ordered = sorted((float(iteration), _known(ap)) for iteration, ap in points)
    if not ordered or ordered[0][0] > 0:
        ordered.insert(0, (0.0, 0.0))
    iterations, ap = np.array(ordered).T
    return iterations, ap


def _known(ap: float | None) -> float:
    return 0.0 if ap is None or math.isnan(ap) else float(ap)


def _require_iterations(budget: float) -> None:
    if not budget > 0:
        raise TransferError(
            f"a budget of {budget} iterations: expected more than 0; give the last iteration of "
            "the run"
        )
