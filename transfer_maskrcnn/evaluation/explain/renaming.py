"""Whether classes are merely mixed up: which names would fit the detections best."""

from __future__ import annotations

import numpy as np

from transfer_maskrcnn.evaluation.explain.matching import FOREGROUND
from transfer_maskrcnn.evaluation.explain.overlaps import Overlaps


def best_renaming(overlaps: Overlaps) -> np.ndarray:
    """(K,) the class that detections of each class should have, each class once.

    The assignment under which most objects get their class from the detection of the highest score
    that fits them (IoU of boxes 0.5). A class stays what it is unless another fits better.
    """
    classes = len(overlaps.class_names)
    fits = (overlaps.box_iou > FOREGROUND) & ~overlaps.object_crowd[overlaps.pair_object]
    _, first = np.unique(overlaps.pair_object[fits], return_index=True)  # score descending
    seen = overlaps.detection_class[overlaps.pair_detection[fits][first]]
    meant = overlaps.object_class[overlaps.pair_object[fits][first]]
    table = np.zeros((classes, classes))
    np.add.at(table, (seen, meant), 1.0)
    names = np.arange(classes)
    own = table[names, names]
    # Where a class is what it mostly stands for on both sides, there is nothing to assign.
    open_ = names[(own < table.max(axis=1)) | (own < table.max(axis=0))]
    if len(open_):
        table[names, names] += 0.5  # of equals, the name it has
        names[open_] = open_[assign(table[np.ix_(open_, open_)])]
    return names


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
