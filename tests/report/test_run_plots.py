"""The plots of a run, and their words."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.report.run_plots import losses_picture, validation_picture

Row = dict[str, Any]

LOSSES = [
    # metrics.json, eval_history.json, what the picture says
    (
        [{"iteration": 0, "total_loss": 3.0, "loss_cls": 2.0}, {"iteration": 9, "total_loss": 1.5}],
        [],
        "Losses during training; the total goes from 3.00 to 1.50.",
    ),
    # measured on validation images, too
    (
        [{"iteration": 0, "total_loss": 3.0}],
        [{"iteration": 0, "val_loss": 4.0}, {"iteration": 5, "val_loss": 2.0}],
        "Losses during training; the total goes from 3.00 to 3.00; "
        "the total on validation images goes from 4.00 to 2.00.",
    ),
    # parts alone
    ([{"iteration": 0, "loss_mask": 1.0}], [], "Losses during training."),
    # a diverged run ends in NaN
    (
        [{"iteration": 0, "total_loss": 3.0}, {"iteration": 9, "total_loss": float("nan")}],
        [],
        "Losses during training; the total goes from 3.00 to 3.00.",
    ),
]


@pytest.mark.parametrize(("metrics", "curve", "alt"), LOSSES)
def test_losses(metrics: list[Row], curve: list[Row], alt: str) -> None:
    picture = losses_picture(metrics, curve)
    assert picture is not None and picture.alt == alt


@pytest.mark.parametrize("metrics", [[], [{"iteration": 3, "lr": 0.1}]])
def test_no_losses(metrics: list[Row]) -> None:
    assert losses_picture(metrics, [{"iteration": 3, "bbox/AP": 1.0}]) is None


CURVES = [
    (
        [
            {"iteration": 0, "bbox/AP": 1.0, "segm/AP": None, "bbox/AP50": 9.0},
            {"iteration": 5, "bbox/AP": 3.0, "segm/AP": 2.0},
        ],
        "AP during training: mask AP from 2.0 to 2.0; box AP from 1.0 to 3.0.",
    ),
    # several test sets
    (
        [{"iteration": 0, "a_val/bbox/AP": 1.0}, {"iteration": 5, "a_val/bbox/AP": 2.0}],
        "AP during training: box AP, a_val from 1.0 to 2.0.",
    ),
]


@pytest.mark.parametrize(("curve", "alt"), CURVES)
def test_validation(curve: list[Row], alt: str) -> None:
    picture = validation_picture(curve)
    assert picture is not None and picture.alt == alt


NO_CURVES = [
    [{"iteration": 3, "val_loss": 0.1, "bbox/AP": None}],
    # one evaluation, of several sets
    [{"iteration": 3, "bbox/AP": 1.0, "segm/AP": 2.0, "b_val/bbox/AP": 3.0}],
]


@pytest.mark.parametrize("curve", NO_CURVES)
def test_no_validation(curve: list[Row]) -> None:
    assert validation_picture(curve) is None
