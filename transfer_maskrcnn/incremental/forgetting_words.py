"""What an extended model knows of its old and new classes, for an 80-column terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from transfer_maskrcnn.text import plural

_KINDS = {"segm": "mask", "bbox": "box"}
_WIDTH = 80


def extension_lines(extension: Mapping[str, Any]) -> list[str]:
    """Lines of at most 80 columns, of masks or, of a model without, of boxes.

    Args:
        extension: as it stands in ``evaluation.json``.
    """
    task = next((task for task in _KINDS if task in extension), None)
    if task is None:
        return []
    figures, old, new = extension[task], extension["old_classes"], extension["new_classes"]
    scored = figures["scored"]
    rows = [(f"old classes ({share(scored['old'], old)})", _old(figures, _KINDS[task]))]
    if new:
        name = f"new classes ({share(scored['new'], new)})"
        rows.append((name, _new(figures["new"], _KINDS[task])))
    if figures["all"] is not None and figures["harmonic_mean"] is not None:
        every, mean = _number(figures["all"]), _number(figures["harmonic_mean"])
        name = f"all ({share(scored['old'] + scored['new'], old + new)})"
        rows.append((name, f"{every}; harmonic mean of old and new {mean}"))
    indent = max(len(name) for name, _ in rows) + 2
    return [line for name, text in rows for line in _row(name, text, indent)]


def share(scored: int, known: int) -> str:
    """Of the classes that the model knows, those that the test sets have objects of."""
    return str(known) if scored in (0, known) else f"{scored} of {known}"


def _row(name: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{name:{indent}}", subsequent_indent=" " * indent
    )


def _new(ap: float | None, kind: str) -> str:
    return "in no set of DATASETS.TEST" if ap is None else f"{kind} AP {_number(ap)}"


def _old(figures: Mapping[str, Any], kind: str) -> str:
    if figures["old"] is None:
        return "in no test set; DATASETS.TEST_SOURCE names sets that annotate them"
    now, lost = f"{kind} AP {_number(figures['old'])}", figures["forgetting"]
    if lost is None:
        return f"{now}; what was forgotten is not known without the source model"
    return f"{now}, before {_number(figures['before'])}: {_lost(lost, figures['images'])}"


def _lost(lost: Mapping[str, Any], images: int) -> str:
    ap, low, high = lost["ap"], lost["low"], lost["high"]
    if low is None or high is None:
        return f"forgot {_number(ap)}; {plural(images, 'image')} cannot tell how surely"
    if low == high == 0:
        return "nothing is forgotten"
    more = round(ap, 1) < 0
    size, bounds = _number(abs(ap)), (-high, -low) if more else (low, high)
    between = f"({_number(bounds[0])} to {_number(bounds[1])})"
    if low > 0 or high < 0:
        return f"{'gained' if more else 'forgot'} {size} {between}"
    of = plural(images, "image")
    return f"{size} {'more' if more else 'less'} {between}, which {of} cannot tell from nothing"


def _number(ap: float) -> str:
    return f"{round(ap, 1) + 0.0:.1f}"  # -0.0 becomes 0.0
