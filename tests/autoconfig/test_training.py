"""The schedule, the batch and the choice of images follow their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from transfer_maskrcnn.autoconfig.decisions import batch_lines, image_lines, schedule_lines
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.doctor.anchors import Measures

# images, batch, iterations asked for, length, step, warm-up (base: 100), a part of the reason
SCHEDULES = [
    (100, 2, None, 600, 450, 100, "12 passes over 100 images, as many as in COCO's"),
    (61, 2, None, 370, 277, 92, "12.1 passes over 61 images"),
    # few images: still enough steps
    (5, 2, None, 300, 225, 75, "120 passes over 5 images: new heads need 300"),
    # very many: fewer passes
    (1_000_000, 16, None, 90_000, 67_500, 100, "1.44 passes over 1,000,000 images: not more"),
    # exactly COCO
    (118_000, 16, None, 88_500, 66_375, 100, "12 passes over 118,000"),
    (61, 2, 120, 120, 90, 30, "As asked for: 3.93 passes"),
    (61, 2, 2, 2, 1, 0, "As asked for"),
]


@pytest.mark.parametrize(
    ("images", "batch", "asked", "length", "step", "warmup", "reason"), SCHEDULES
)
def test_schedule(
    images: int, batch: int, asked: int | None, length: int, step: int, warmup: int, reason: str
) -> None:
    lines = schedule_lines(images, batch, 100, asked)
    assert {line.key: line.value for line in lines} == {
        "SOLVER.MAX_ITER": length,
        "SOLVER.STEPS": [step],
        "SOLVER.WARMUP_ITERS": warmup,
        "SOLVER.CHECKPOINT_PERIOD": -(-length // 5),
    }
    assert reason in lines[0].reason


def test_one_iteration_has_no_step() -> None:
    stated = {line.key: line.value for line in schedule_lines(61, 2, 100, 1)}
    assert stated["SOLVER.STEPS"] == []


# images, pixels of the base for one of ours, batch, learning rate (base: 4 images, 0.0025)
BATCHES = [
    (1000, 1.0, 4, 0.0025),
    (1000, 1.9, 4, 0.0025),
    (1000, 2.0, 8, 0.005),
    (1000, 4.3, 16, 0.01),
    (1000, 40.0, 16, 0.01),  # four times is the most
    (80, 40.0, 8, 0.005),  # so that an epoch has 10 batches
    (79, 40.0, 4, 0.0025),
    (1000, 0.7, 4, 0.0025),  # enlarged: still within what the base affords
    (3, 1.0, 3, 0.001875),  # fewer images than a batch holds
]


@pytest.mark.parametrize(("images", "ratio", "batch", "rate"), BATCHES)
def test_batch(images: int, ratio: float, batch: int, rate: float) -> None:
    cfg = load_config("", ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.0025])
    lines = batch_lines(images, ratio, cfg)
    assert [line.value for line in lines] == [batch, pytest.approx(rate)]


EMPTY, BALANCE = "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "DATALOADER.REPEAT_IMBALANCE"
# images, of them empty, instances of classes, limit, what is stated beside the flip, reasons' parts
IMAGES: list[tuple[int, int, list[int], float, dict[str, Any], str]] = [
    (4, 0, [8], 10.0, {}, ""),
    (4, 1, [8], 10.0, {EMPTY: False}, "1 of 4 images (25.0 %) hold no object. They are used"),
    (4, 2, [8], 10.0, {EMPTY: False}, "(50.0 %)"),
    (4, 3, [8], 10.0, {EMPTY: True}, "3 of 4 images (75.0 %) hold no object. They are left out"),
    (4, 0, [30, 4], 10.0, {BALANCE: 10.0}, "'a' has 30 instances, 'b' 4: 7.5 times fewer. Up to"),
    (4, 0, [4, 60], 10.0, {BALANCE: 10.0}, "'b' has 60 instances, 'a' 4: 15.0 times fewer. Beyond"),
    (4, 0, [4, 60], 0.0, {BALANCE: 10.0}, "15.0 times fewer. Beyond"),  # off in the base
    (4, 0, [4, 60, 0], 10.0, {BALANCE: 10.0}, "'a' 4"),  # none at all is not the rarest
]


@pytest.mark.parametrize(("images", "empty", "counts", "limit", "expected", "reason"), IMAGES)
def test_images(
    squares: Callable[..., Measures],
    images: int,
    empty: int,
    counts: list[int],
    limit: float,
    expected: dict[str, Any],
    reason: str,
) -> None:
    full = squares((64, 64), [10, 10], images, counts)
    kept = full.image_of_box >= empty
    measures = replace(full, boxes_wh=full.boxes_wh[kept], image_of_box=full.image_of_box[kept])
    cfg = load_config("", [BALANCE, limit])
    lines = image_lines(measures, ["a", "b", "c"][: len(counts)], cfg)
    stated = {line.key: line.value for line in lines}
    assert stated == {**expected, "INPUT.RANDOM_FLIP": "horizontal"}
    assert reason in lines[0].reason
