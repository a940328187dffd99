"""Names for classes: the assignment is the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from transfer_maskrcnn.evaluation.explain.renaming import assign


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_permutation_is_better(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(40):
        gain = rng.integers(0, 6, (size, size)).astype(float)
        columns = assign(gain)
        best = max(
            sum(gain[row, column] for row, column in enumerate(order))
            for order in itertools.permutations(range(size))
        )
        assert sorted(columns) == list(range(size))
        assert gain[np.arange(size), columns].sum() == pytest.approx(best)


def test_hundreds_of_classes() -> None:
    order = np.random.default_rng(0).permutation(300)
    gain = np.zeros((300, 300))
    gain[np.arange(300), order] = 1
    assert np.array_equal(assign(gain), order)
