"""The decisions about a config hang together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.autoconfig import Data, fit_lines
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.doctor.anchors import Measures

Values = Callable[..., dict[str, Any]]


@pytest.fixture
def values(repository: Path) -> Values:
    """values(train, val=None, *opts) -> what is stated on the base of short side 320, batch 2."""

    def of(train: Measures, val: Measures | None = None, *opts: Any) -> dict[str, Any]:
        base = load_config(str(repository / "configs/Base-thin-R50-FPN-cpu.yaml"), opts)
        return {line.key: line.value for line in fit_lines(Data(["a"], train, val), base)}

    return of


def test_the_fullest_image_may_be_a_validation_image(
    values: Values, squares: Callable[..., Measures]
) -> None:
    stated = values(squares((320, 320), [40] * 3), squares((320, 320), [40] * 100))
    assert stated["TEST.DETECTIONS_PER_IMAGE"] == 150
    assert (stated["TEST.EVAL_PERIOD"], stated["TEST.BEST_METRIC"]) == (30, "segm/AP")


def test_nothing_is_best_without_images_to_validate_on(
    values: Values, squares: Callable[..., Measures]
) -> None:
    stated = values(squares((320, 320), [40]))
    assert "TEST.EVAL_PERIOD" not in stated and "TEST.BEST_METRIC" not in stated


# images without an object among 100, iterations: 12 passes over those that are used, by twos
EMPTY = [(0, 600), (40, 600), (60, 300)]


@pytest.mark.parametrize(("empty", "iterations"), EMPTY)
def test_only_images_that_are_used_count(
    values: Values, squares: Callable[..., Measures], empty: int, iterations: int
) -> None:
    full = squares((320, 320), [40], images=100)
    kept = full.image_of_box >= empty
    train = replace(full, boxes_wh=full.boxes_wh[kept], image_of_box=full.image_of_box[kept])
    assert values(train)["SOLVER.MAX_ITER"] == iterations


def test_smaller_images_make_larger_batches(
    values: Values, squares: Callable[..., Measures]
) -> None:
    """A quarter of the pixels: four times the images, learning rate with them."""
    stated = values(squares((160, 160), [40, 60], images=1000))
    assert stated["INPUT.MIN_SIZE_TEST"] == 160
    assert stated["SOLVER.IMS_PER_BATCH"] == 8
    assert stated["SOLVER.BASE_LR"] == pytest.approx(0.02)
    assert stated["SOLVER.MAX_ITER"] == 1500


def test_anchors_follow_the_input_size(values: Values, squares: Callable[..., Measures]) -> None:
    """Objects of 60 in images of 1,280 are 15 at the base's size, those of 24 are 6."""
    large = values(squares((1280, 1280), [60, 90]))
    small = values(squares((1280, 1280), [24, 26, 36, 40]))
    key = "MODEL.ANCHOR_GENERATOR.SIZES"
    assert large[key][0] == [16] and small[key][0][0] < 16


def test_epochs_of_the_base_are_switched_off(
    values: Values, squares: Callable[..., Measures]
) -> None:
    train = squares((320, 320), [40])
    assert values(train, None, "SOLVER.EPOCHS", 3.0)["SOLVER.EPOCHS"] == 0.0
    assert "SOLVER.EPOCHS" not in values(train)
