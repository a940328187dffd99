"""A config's values, with the strides that its backbone has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from transfer_maskrcnn.autoconfig.lines import settings_of
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import ConfigError

C4 = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RPN.IN_FEATURES", ["res4"]),
    *("MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]]),
]
# config, overrides, some of the settings
CONFIGS: list[tuple[str, list[Any], dict[str, Any]]] = [
    (
        "Base-thin-R50-FPN-cpu.yaml",
        [],
        {
            "strides": (4, 8, 16, 32, 64),
            "anchor_sizes": ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
            "aspect_ratios": ((0.5, 1.0, 2.0),) * 5,
            "min_size_train": (256, 288, 320),
            "max_size_test": 480,
        },
    ),
    # one row for all levels
    (
        "Base-thin-R50-FPN-cpu.yaml",
        ["MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16]], "TEST.DETECTIONS_PER_IMAGE", 7],
        {"anchor_sizes": ((8.0, 16.0),) * 5, "detections_per_image": 7},
    ),
    # no pyramid
    ("Base-R50-FPN-coco.yaml", C4, {"strides": (16,), "anchor_sizes": ((32.0, 64.0),)}),
]


@pytest.mark.parametrize(("name", "opts", "expected"), CONFIGS)
def test_settings(repository: Path, name: str, opts: list[Any], expected: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    settings = settings_of(load_config(str(repository / "configs" / name), opts))
    assert {key: getattr(settings, key) for key in expected} == expected
    assert torch.equal(torch.get_rng_state(), state)


# overrides, what the error must say
WRONG = [
    (["MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16]]], r"SIZES has 2 rows; expected 1, or 5"),
    (["MODEL.RPN.IN_FEATURES", ["p2", "p9"]], r"names 'p9'; the backbone has p2, "),
]


@pytest.mark.parametrize(("opts", "message"), WRONG)
def test_what_does_not_fit(repository: Path, opts: list[Any], message: str) -> None:
    config = str(repository / "configs" / "Base-thin-R50-FPN-cpu.yaml")
    with pytest.raises(ConfigError, match=message):
        settings_of(load_config(config, opts))
