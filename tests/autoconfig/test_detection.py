"""Anchors and counts follow the objects, and keep the base's values where they serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.autoconfig.decisions import anchor_lines, count_lines
from transfer_maskrcnn.autoconfig.lines import settings_of
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.doctor.anchors import Measures

# most objects an image, what is stated (base: 100 detections; 500 proposals, 300 after NMS)
COUNTS = [
    (0, {"TEST.DETECTIONS_PER_IMAGE": 100}),
    (80, {"TEST.DETECTIONS_PER_IMAGE": 100}),
    # a quarter more than 81 is above 100
    (81, {"TEST.DETECTIONS_PER_IMAGE": 150}),
    # more proposals on a level, too
    (
        161,
        {
            "TEST.DETECTIONS_PER_IMAGE": 250,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 375,
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 750,
        },
    ),
    # the fullest nuclei image
    (
        313,
        {
            "TEST.DETECTIONS_PER_IMAGE": 400,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 600,
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 1200,
        },
    ),
]


@pytest.mark.parametrize(("most", "expected"), COUNTS)
def test_counts(repository: Path, most: int, expected: dict[str, int]) -> None:
    cfg = load_config(str(repository / "configs/Base-thin-R50-FPN-cpu.yaml"))
    lines = count_lines(most, cfg)
    assert {line.key: line.value for line in lines} == expected
    assert str(most) in lines[0].reason


SIZES, RATIOS = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
# sides of the objects in images of 320 x 320, height / width, what is stated, a part of the reason
ANCHORS: list[tuple[list[float], float, dict[str, Any], str]] = [
    # reached by the base's
    ([20, 40, 90], 1, {SIZES: [[16], [32], [64], [128], [256]]}, "The base's, which"),
    # nuclei
    ([6, 7, 8], 1, {SIZES: [[8], [16], [32], [64], [128]]}, "The base's times 0.5. Its sizes, "),
    # poles
    (
        [60, 90],
        7,
        {SIZES: [[16], [32], [64], [128], [256]], RATIOS: [[0.25, 1, 4]]},
        "these 50.0 %. As many a cell",
    ),
]


@pytest.mark.parametrize(("sides", "shape", "expected", "reason"), ANCHORS)
def test_anchors(
    repository: Path,
    squares: Callable[..., Measures],
    sides: list[float],
    shape: float,
    expected: dict[str, Any],
    reason: str,
) -> None:
    measures = squares((320, 320), sides)
    measures.boxes_wh[:] *= [shape**-0.5, shape**0.5]
    settings = settings_of(load_config(str(repository / "configs/Base-thin-R50-FPN-cpu.yaml")))
    lines = anchor_lines(measures, settings)
    assert {line.key: line.value for line in lines} == expected
    assert reason in lines[-1].reason
