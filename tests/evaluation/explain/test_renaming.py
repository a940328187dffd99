"""Names for classes: only what is proven is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from transfer_maskrcnn.evaluation.explain import explain
from transfer_maskrcnn.evaluation.explain.tide import Cause, find_renaming, read_scene

Called = Callable[[int, np.random.Generator], int]


def boxes_of(
    meant: list[int], called: Called, classes: int, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Exact boxes, six objects an image; ``called(class, generator)`` is what a model says."""
    rng = np.random.default_rng(seed)
    places = [{"image_id": n // 6, "bbox": [100.0 * (n % 6), 10.0, 50.0, 50.0]}
              for n in range(len(meant))]  # fmt: skip
    truth = {
        "images": [{"id": n, "height": 640, "width": 640} for n in range(len(meant) // 6 + 1)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(classes)],
        "annotations": [
            {**place, "id": n + 1, "category_id": k, "area": 2500.0, "iscrowd": 0}
            for n, (place, k) in enumerate(zip(places, meant, strict=True))
        ],
    }
    results = [
        {**place, "category_id": called(k, rng), "score": float(rng.uniform(0.1, 1))}
        for place, k in zip(places, meant, strict=True)
    ]
    return truth, results


def right_with(probability: float, classes: int) -> Called:
    def called(meant: int, rng: np.random.Generator) -> int:
        return meant if rng.random() < probability else int(rng.integers(classes))

    return called


def swapped(meant: int, rng: np.random.Generator) -> int:
    """0 and 1 exchanged, nine times in ten."""
    wrong = {0: 1, 1: 0}.get(meant, meant)
    return wrong if rng.random() < 0.9 else meant


ACCUSED: list[tuple[str, list[int], Called, int, dict[int, int]]] = [
    # what, classes of the objects, what they are called, classes, what is proven
    ("two swapped among three", [0, 1, 2] * 10, swapped, 3, {0: 1, 1: 0}),
    ("all in another order", [0, 1, 2, 3] * 6, lambda k, _: (k + 1) % 4, 4,
     {1: 0, 2: 1, 3: 2, 0: 3}),
    ("swapped, and a class that nobody has", [0, 1] * 12, swapped, 9, {0: 1, 1: 0}),
    ("right", [0, 1, 2] * 10, lambda k, _: k, 3, {}),
    ("one class is called another, absent one", [k for k in range(10) for _ in "ab"],
     lambda k, _: 70 if k == 3 else k, 80, {}),
    ("two classes are called absent ones", [0, 1] * 12, lambda k, _: k + 5, 9, {}),
    ("one class is confused", [0, 1, 2] * 10, lambda k, _: 1 if k == 0 else k, 3, {}),
    ("two classes are called by a third one's name", [0, 1, 2] * 10, lambda k, _: (2, 2, 0)[k], 3,
     {}),
    ("all are called the same", [0, 1, 1] * 20, lambda k, _: 0, 2, {}),
    ("too few objects", [0, 1] * 2, lambda k, _: 1 - k, 2, {}),
    ("too few images", [0, 1] * 6, lambda k, _: 1 - k, 2, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", ACCUSED, ids=[case[0] for case in ACCUSED])
def test_only_a_permutation_is_one(case: Any) -> None:
    _, meant, called, classes, proven = case
    truth, results = boxes_of(meant, called, classes)
    assert find_renaming(read_scene(truth, results, "bbox")) == proven


def test_a_part_of_a_longer_chain_is_proven() -> None:
    """Of 2, called 0 or itself, nothing is."""
    order = {0: 1, 1: 2}
    truth, results = boxes_of(
        [0, 1, 2] * 12, lambda k, rng: order.get(k, int(rng.choice([0, 2]))), 3
    )
    for result, annotation in zip(results, truth["annotations"], strict=True):
        if annotation["category_id"] == 2:
            result["category_id"] = (0, 2)[annotation["id"] % 2]
    assert find_renaming(read_scene(truth, results, "bbox")) == {1: 0, 2: 1}


CHANCE = [
    # classes, objects, how often right
    (2, 12, 0.0), (3, 12, 0.0), (5, 60, 0.0), (8, 40, 0.0), (20, 60, 0.0),
    (5, 20, 0.4), (20, 40, 0.4), (80, 100, 0.4), (10, 30, 0.6),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "objects", "right"), CHANCE)
def test_chance_is_not_accused(classes: int, objects: int, right: float) -> None:
    for seed in range(40):
        meant = np.random.default_rng(1000 + seed).integers(classes, size=objects).tolist()
        truth, results = boxes_of(meant, right_with(right, classes), classes, seed)
        assert not find_renaming(read_scene(truth, results, "bbox")), seed


def test_a_small_limit_of_detections_is_not_accused() -> None:
    truth, results = boxes_of([0, 1, 2] * 16, right_with(0.3, 3), 3)
    kept = [r for n, r in enumerate(results) if n % 6 < 1]
    explanation = explain(truth, kept, task="bbox")
    assert explanation.figures.renaming == {}
    assert Cause.CLASSES not in [cause.name for cause in explanation.causes]
