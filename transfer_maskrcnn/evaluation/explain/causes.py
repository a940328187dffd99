"""Which cause comes first: the judgement behind the sentence, from figures and facts."""

from __future__ import annotations

from transfer_maskrcnn.evaluation.explain.cause import HALF, NEGLIGIBLE, Cause, standing_out
from transfer_maskrcnn.evaluation.explain.conditions import conditions, limiting
from transfer_maskrcnn.evaluation.explain.facts import Facts
from transfer_maskrcnn.evaluation.explain.figures import Figures

#: Detectors as good as can be had lose so much of AP50 to stricter thresholds: Mask R-CNN R50-FPN
#: on COCO has box AP 41.0 and mask AP 37.2 of AP50 61.5 and 58.6 (detectron2's model zoo).
USUAL_LOOSENESS = 0.4


def weights(figures: Figures) -> dict[str, float]:
    """Kind of mistake -> what it costs: AP50, and AP where outlines are looser than usual."""
    found = {kind: repair.gain for kind, repair in figures.repairs.items()}
    unusual = max(0.0, figures.loose - USUAL_LOOSENESS * figures.ap50)
    if figures.loose > 0:
        found["localisation"] += unusual * figures.loose_boxes / figures.loose
        found["mask"] += unusual * figures.loose_masks / figures.loose
    return found


def rank_causes(figures: Figures, facts: Facts) -> list[Cause]:
    """Causes, the one to mend first in front; none where nothing is left to repair."""
    if not figures.objects or 100 - figures.ap < NEGLIGIBLE:
        return []
    costs = weights(figures)
    kinds = [Cause(k, costs[k], _size(figures, k)) for k in sorted(costs, key=lambda k: -costs[k])]
    kinds = [cause for cause in kinds if cause.gain >= NEGLIGIBLE]
    lesser = [cause for cause in limiting(figures, facts) if cause.gain >= NEGLIGIBLE]
    by_gain = sorted([*kinds, *lesser], key=lambda cause: -cause.gain) or _loose_only(figures)
    first: dict[str, Cause] = {}
    for cause in [*conditions(figures, facts, kinds), *by_gain]:
        first.setdefault(cause.name, cause)
    return list(first.values())


def is_looseness(figures: Figures, cause: Cause) -> bool:
    """A cause of which most lies in outlines that are found, but not exact."""
    loose = cause.name in ("localisation", "mask")
    return loose and figures.repairs[cause.name].gain < HALF * cause.gain


def _size(figures: Figures, kind: str) -> str:
    """Of what is missed numbers count: a gain by size also tells how classes and sizes mix."""
    repair = figures.repairs[kind]
    bad = {
        size: float(repair.count_by_size[size]) if kind == "missed" else gain
        for size, gain in repair.by_size.items()
        if kind == "missed" or gain == gain
    }
    return standing_out(bad, {size: group.objects for size, group in figures.sizes.items()})


def _loose_only(figures: Figures) -> list[Cause]:
    """Where all is found and nothing is wrong, only exactness is left."""
    loose = {"localisation": figures.loose_boxes, "mask": figures.loose_masks}
    worst = max(loose, key=lambda kind: loose[kind])
    return [Cause(worst, loose[worst])] if loose[worst] >= NEGLIGIBLE else []
