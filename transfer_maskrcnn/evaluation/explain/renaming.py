"""Whether class ids are permuted: only what the objects prove, and what one half of the images says
of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb

import numpy as np

from transfer_maskrcnn.evaluation.explain.matching import FOREGROUND
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps

#: of a class's objects that must be called by one other name
MAJORITY = 2 / 3
#: objects that prove it, and the images that they are in
LEAST_OBJECTS, LEAST_IMAGES = 5, 3
#: the probability of as many agreements on unseen images if the names were right, or at random
_SIGNIFICANCE = 0.01


@dataclass(frozen=True, eq=False)
class Renaming:
    """Attributes:
    names: (K,) the class that detections of each class should have, each class once.
    proven: class of the detections -> class that they are, where these differ.
    """

    names: np.ndarray
    proven: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Labels:
    """Of each object that a box fits: what the best of them says, what it is, and its image."""

    seen: np.ndarray
    meant: np.ndarray
    image: np.ndarray

    def at(self, members: np.ndarray) -> _Labels:
        return _Labels(self.seen[members], self.meant[members], self.image[members])


def find_renaming(overlaps: Overlaps) -> Renaming:
    """The permutation of classes that the objects prove; none in doubt.

    Two or more classes must each have a clear majority of their objects called by one other name,
    no two by the same, and names learnt on every other image must be right on those between.
    Classes without objects take no part.
    """
    same = Renaming(np.arange(len(overlaps.class_names)))
    labels = _best_labels(overlaps)
    moved = _moved(labels)
    proofs = np.array([moved.get(m) == s for s, m in zip(labels.seen, labels.meant, strict=True)])
    if len(moved) < 2 or proofs.sum() < LEAST_OBJECTS:
        return same
    if len(np.unique(labels.image[proofs])) < LEAST_IMAGES or not _holds_on_others(labels):
        return same
    proven = {seen: meant for meant, seen in moved.items()}
    return Renaming(_completed(proven, labels, same.names), proven)


def _best_labels(overlaps: Overlaps) -> _Labels:
    """The class of the detection of the highest score whose box fits, of any class with objects."""
    present = np.zeros(len(overlaps.class_names), dtype=bool)
    present[overlaps.object_class[~overlaps.object_crowd]] = True
    fits = (overlaps.box_iou >= FOREGROUND) & ~overlaps.object_crowd[overlaps.pair_object]
    objects, first = np.unique(overlaps.pair_object[fits], return_index=True)  # score descending
    every = _Labels(
        seen=overlaps.detection_class[overlaps.pair_detection[fits][first]],
        meant=overlaps.object_class[objects],
        image=overlaps.object_image[objects],
    )
    # A name that no object has cannot be the other half of an exchange, but it is no majority.
    return _Labels(np.where(present[every.seen], every.seen, -1), every.meant, every.image)


def _moved(labels: _Labels) -> dict[int, int]:
    """Class -> the other name that a majority of its objects has, if no other class has it."""
    called: dict[int, int] = {}
    for meant in np.unique(labels.meant).tolist():
        names, counts = np.unique(labels.seen[labels.meant == meant], return_counts=True)
        most = int(np.argmax(counts))
        if counts[most] >= MAJORITY * counts.sum() and names[most] >= 0:
            called[meant] = int(names[most])
    names_used = list(called.values())
    return {m: s for m, s in called.items() if m != s and names_used.count(s) == 1}


def _holds_on_others(labels: _Labels) -> bool:
    """Names learnt on one half of the images must mend more than they break on the other.

    In all they must be right for most of the objects that they are for.
    """
    half = np.searchsorted(np.unique(labels.image), labels.image) % 2
    mended = broken = concerned = 0
    for learnt_on in (0, 1):
        moved = _moved(labels.at(half == learnt_on))
        others = labels.at(half != learnt_on)
        learnt = np.array([moved.get(int(m), -2) for m in others.meant])
        right = int((others.seen == learnt).sum())
        wrong = int(((others.seen == others.meant) & (learnt >= 0)).sum())
        if right <= wrong:
            return False
        mended, broken = mended + right, broken + wrong
        concerned += int((learnt >= 0).sum())
    trials = mended + broken
    by_chance = sum(comb(trials, k) for k in range(mended, trials + 1)) / 2**trials
    return 2 * mended > concerned and by_chance <= _SIGNIFICANCE


def _completed(proven: Mapping[int, int], labels: _Labels, names: np.ndarray) -> np.ndarray:
    """A permutation of all classes: who lost the name to a proven class gets a free one."""
    completed = names.copy()
    completed[list(proven)] = list(proven.values())
    without = [c for c in names if c not in proven and c in proven.values()]
    free = [c for c in names if c in proven and c not in proven.values()]
    if without:
        table = np.zeros((len(without), len(free)))
        for row, seen in enumerate(without):
            for column, meant in enumerate(free):
                table[row, column] = ((labels.seen == seen) & (labels.meant == meant)).sum()
        completed[without] = np.array(free)[assign(table)]
    return completed


def assign(gain: np.ndarray) -> np.ndarray:
    """(N,) a column for each row, each column once, so that their ``gain`` (N, N) is largest.

    Source: Kuhn 1955, The Hungarian method, as shortest augmenting paths; N³ steps.
    """
    size = len(gain)
    cost = gain.max() - gain
    of_row, of_column = np.zeros(size), np.zeros(size)  # the prices that prove the optimum
    row_of = np.full(size, -1)
    for row in range(size):
        slack = np.full(size, np.inf)
        before = np.full(size, -1)  # the column from which the path reached this one
        visited = np.zeros(size, dtype=bool)
        current, column = row, -1
        while current >= 0:
            reduced = cost[current] - of_row[current] - of_column
            closer = ~visited & (reduced < slack)
            slack[closer], before[closer] = reduced[closer], column
            next_column = int(np.argmin(np.where(visited, np.inf, slack)))
            step = slack[next_column]
            of_row[row] += step
            of_row[row_of[visited]] += step
            of_column[visited] -= step
            slack[~visited] -= step
            visited[next_column] = True
            column, current = next_column, int(row_of[next_column])
        while column >= 0:  # turn the path round
            source = int(before[column])
            row_of[column] = row if source < 0 else row_of[source]
            column = source
    columns = np.empty(size, dtype=np.int64)
    columns[row_of] = np.arange(size)
    return columns
