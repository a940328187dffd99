"""The doctor on real photographs and micrographs; the README lists what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.registry import make_spec
from transfer_maskrcnn.doctor import Diagnosis
from transfer_maskrcnn.doctor.anchors import Settings

STANDARD = Settings(
    min_size_train=(800,),
    size_sampling="choice",
    max_size_train=1333,
    min_size_test=800,
    max_size_test=1333,
    anchor_sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    aspect_ratios=((0.5, 1.0, 2.0),) * 5,
    strides=(4, 8, 16, 32, 64),
    detections_per_image=100,
    filter_empty=True,
)
Found = dict[tuple[str, str], int]
SETS: dict[str, tuple[str, dict[str, Any], Found]] = {
    "balloon": (
        "via",
        {"classes": ["balloon"]},
        {("train", "repeated_points"): 2},
    ),
    "kudzu": (
        "via",
        {"classes": ["kudzu"]},
        {
            ("train", "anchors_small"): 322,
            ("train", "over_limit"): 1,
            ("val", "over_limit"): 1,
            ("val", "repeated_points"): 5,
            ("train", "repeated_points"): 1,
        },
    ),
    "dsb2018": (
        "png_masks",
        {"classes": ["nucleus"]},
        {
            ("train", "anchors_small"): 777,
            ("train", "anchors_large"): 9,
            ("train", "over_limit"): 11,
            ("val", "over_limit"): 8,
            ("train", "tiny"): 5,
            ("val", "tiny"): 4,
        },
    ),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.slow
def test_what_the_readme_says(name: str, shared: Path, diagnose: Callable[..., Diagnosis]) -> None:
    format, options, expected = SETS[name]
    specs = []
    for part in ("train", "val"):
        folder = shared / "data" / name / part
        annotations = folder / "via_region_data.json" if format == "via" else folder
        specs.append(
            make_spec(part, format=format, annotations=annotations, image_root=folder, **options)
        )
    found = {(f.dataset, f.kind): f.count for f in diagnose(*specs, settings=STANDARD).findings}
    assert found == expected
