"""How well an extended model knows its old classes and its new ones, and what it has forgotten."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_maskrcnn.evaluation.bootstrap import (
    Interval,
    bootstrap_class_ap,
    interval,
    mean_of_classes,
    resample,
)
from transfer_maskrcnn.evaluation.matches import Matches, require_same_ground_truth
from transfer_maskrcnn.text import plural

#: its place in ``evaluation.json``, beside the sets
EXTENSION_KEY = "extension"
#: with fewer, images that happen to agree would pass for certainty
LEAST_IMAGES = 5
REPLICATES = 1000
_SEED = 0
_KINDS = {"segm": "mask", "bbox": "box"}


@dataclass(frozen=True, eq=False)
class MatchedSet:
    """The detections of the extended model on one set and, where known, those of its source.

    Attributes:
        classes: the model's name of each row of ``matches.objects``.
        before: the source model's, on the same ground truth.
    """

    classes: tuple[str, ...]
    matches: Matches
    before: Matches | None = None

    def __post_init__(self) -> None:
        """Raises TransferError where the two were matched to different ground truths."""
        if self.before is not None:
            require_same_ground_truth([self.matches, self.before])


@dataclass(frozen=True, eq=False)
class _Scored:
    """The rows of a set that count: a class that several sets annotate counts in the first."""

    one: MatchedSet
    rows: list[int]

    def after(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(rows, B) of (B, N) weights; of the images as they are without."""
        return self._ap(self.one.matches, weights)

    def before(self, weights: np.ndarray | None = None) -> np.ndarray | None:
        """The same of the source model; None where that is not known."""
        return None if self.one.before is None else self._ap(self.one.before, weights)

    def _ap(self, matches: Matches, weights: np.ndarray | None) -> np.ndarray:
        if weights is None:
            weights = np.ones((1, self.images), dtype=np.int64)
        return bootstrap_class_ap(matches, weights, self.rows)

    @property
    def images(self) -> int:
        return len(self.one.matches.image_ids)

    @property
    def images_that_tell(self) -> int:
        return int(self.one.matches.objects[self.rows].any(axis=0).sum())


def extension_figures(
    old_sets: Sequence[MatchedSet],
    new_sets: Sequence[MatchedSet],
    old_classes: Collection[str],
    new_classes: Collection[str],
) -> dict[str, Any]:
    """AP of old, new and all classes, and how much AP of the old ones was lost.

    Every AP is COCO's mean over classes that have objects, each class once: where several sets
    annotate it, in the first that does. The harmonic mean of old and new is few-shot papers'
    (https://arxiv.org/abs/1707.00600 has it of seen and unseen classes). The interval of the
    forgetting is the paired bootstrap's over images: each of 1,000 resamples draws the same images
    for both models.

    Args:
        old_sets, new_sets: where old and new classes are scored, all of one IoU type.
        old_classes, new_classes: the model's names of the source's classes, and of the others.

    Returns:
        ``old``, ``new``, ``all``, ``harmonic_mean``, ``before`` (the source model on the old
        classes), all AP from 0 to 100; ``forgetting`` with ``ap`` (before less old) and its 95 %
        interval ``low`` to ``high``; ``images`` that show an old class; ``scored``, how many
        ``old`` and ``new`` classes have objects; ``classes``, each old one's ``before`` and
        ``after``. None for what these sets, or a missing ``before``, cannot tell.
    """
    old, new = list(_scored(old_sets, old_classes)), list(_scored(new_sets, new_classes))
    after, added = _joined(one.after() for one in old), _joined(one.after() for one in new)
    before = _joined(one.before() for one in old)
    kept, gained, known = _mean(after), _mean(added), _mean(before)
    told = (kept is not None or not old_classes) and (gained is not None or not new_classes)
    images = sum(one.images_that_tell for one in old)
    forgetting = None
    if known is not None and kept is not None:
        low, high = _lost(old) if images >= LEAST_IMAGES else (None, None)
        forgetting = {"ap": known - kept, "low": low, "high": high}
    return {
        "old": kept,
        "new": gained,
        "all": _mean(_joined(ap for ap in (after, added) if ap is not None)) if told else None,
        "harmonic_mean": _harmonic_mean(kept, gained),
        "before": known,
        "forgetting": forgetting,
        "images": images,
        "scored": {"old": _rows(old), "new": _rows(new)},
        "classes": _by_class(old, before, after),
    }


def _scored(sets: Sequence[MatchedSet], classes: Collection[str]) -> Iterator[_Scored]:
    left = set(classes)
    for one in sets:
        objects = one.matches.objects.sum(axis=1)
        rows = [k for k, name in enumerate(one.classes) if objects[k] and name in left]
        left -= {one.classes[k] for k in rows}
        if rows:
            yield _Scored(one, rows)


def _rows(parts: Sequence[_Scored]) -> int:
    return sum(len(one.rows) for one in parts)


def _joined(parts: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """(classes, B) of all sets; None where there is none, or one is not known."""
    arrays = list(parts)
    known = [part for part in arrays if part is not None]
    return np.vstack(known) if known and len(known) == len(arrays) else None


def _mean(ap: np.ndarray | None) -> float | None:
    return None if ap is None else float(mean_of_classes(ap)[0])


def _harmonic_mean(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def _lost(old: Sequence[_Scored]) -> Interval:
    """95 % interval of the loss of AP; the images of each set are drawn on their own."""
    weights = [resample(one.images, REPLICATES, _SEED + place) for place, one in enumerate(old)]
    before = _joined(one.before(w) for one, w in zip(old, weights, strict=True))
    after = _joined(one.after(w) for one, w in zip(old, weights, strict=True))
    if before is None or after is None:
        return Interval(math.nan, math.nan)
    return interval(mean_of_classes(before) - mean_of_classes(after))


def _by_class(
    old: Sequence[_Scored], before: np.ndarray | None, after: np.ndarray | None
) -> dict[str, dict[str, float | None]]:
    names = [scored.one.classes[k] for scored in old for k in scored.rows]

    def of(ap: np.ndarray | None, place: int) -> float | None:
        return None if ap is None else float(ap[place, 0])

    return {n: {"before": of(before, k), "after": of(after, k)} for k, n in enumerate(names)}


def extension_lines(extension: Mapping[str, Any]) -> list[str]:
    """What is told of an extended model, of masks or, of a model without, of boxes.

    Args:
        extension: as it stands in ``evaluation.json``, which keeps these lines, too.
    """
    task = next((task for task in _KINDS if task in extension), None)
    if task is None:
        return []
    figures, old, new = extension[task], extension["old_classes"], extension["new_classes"]
    scored, kind = figures["scored"], _KINDS[task]
    lines = [f"old classes ({_share(scored['old'], old)}): {_old_words(figures, kind)}"]
    if new:
        ap = figures["new"]
        known = "in no set of DATASETS.TEST" if ap is None else f"{kind} AP {_number(ap)}"
        lines.append(f"new classes ({_share(scored['new'], new)}): {known}")
    if figures["all"] is not None and figures["harmonic_mean"] is not None:
        every, mean = _number(figures["all"]), _number(figures["harmonic_mean"])
        name = f"all ({_share(scored['old'] + scored['new'], old + new)})"
        lines.append(f"{name}: {kind} AP {every}; harmonic mean of old and new {mean}")
    return lines


def _share(scored: int, known: int) -> str:
    """Of the classes that the model knows, those that the test sets have objects of."""
    return str(known) if scored in (0, known) else f"{scored} of {known}"


def _old_words(figures: Mapping[str, Any], kind: str) -> str:
    if figures["old"] is None:
        return "in no test set; DATASETS.TEST_SOURCE names sets that annotate them"
    now, lost = f"{kind} AP {_number(figures['old'])}", figures["forgetting"]
    if lost is None:
        return f"{now}; what was forgotten is not known without the source model"
    return f"{now}, before {_number(figures['before'])}: {_lost_words(lost, figures['images'])}"


def _lost_words(lost: Mapping[str, Any], images: int) -> str:
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
