"""What the doctor hands to its page, generated: hostile names, one image there, one not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

NASTY = '<b>"x"&'


@pytest.fixture
def doctor_content(tmp_path: Path) -> dict[str, Any]:
    """What the doctor says of one image of 800 x 600, with two small squares on each other."""
    name = "<b>&.png"
    noise = np.random.default_rng(0).integers(60, 120, (600, 800, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / name), noise)
    square = [[400, 300, 412, 300, 412, 312, 400, 312]]
    shape = {"label": "<script>", "segmentation": square}
    picture = {"file": str(tmp_path / name), "height": 600, "width": 800, "shapes": [shape] * 2}
    gone = {**picture, "file": str(tmp_path / "gone.png")}
    place = {"file": str(tmp_path / "a.json"), "note": "IoU 1.000", "image": picture["file"]}
    places = [{**place, "where": f"annotations[{i}]", "drawn": [0, 1]} for i in range(25)]
    words = {"dataset": NASTY, "effect": "AP is capped.", "fix": "Delete one of each."}
    whole = {"file": picture["file"], "where": "", "note": "", "image": "", "drawn": []}
    findings = [
        {"severity": "error", "count": 25, "what": "<img src=x> instances twice", "places": places,
         "pictures": [(0, picture), (1, gone)], **words},
        {"severity": "warning", "count": 1, "what": "grey image", "places": [whole],
         "pictures": [(0, picture)], **words},
        {"severity": "note", "count": 1, "what": "rare class", "places": [], "pictures": [],
         **words},
    ]  # fmt: skip
    dataset = {
        "name": NASTY,
        "format": "coco",
        "annotations": "a.json",
        "images": 1,
        "instances": 2,
        "counted": "1 image, 2 instances, 6 crowd regions",
        "mask_format": "polygon",
        "classes": {"<script>": 2, "b": 0},
        "loader": "1 of 1 images",
        "image_sizes": [(800, 600, 1)],
        "sides": [12.0, 12.0],
        "aspects": [1.0, 1.0],
        "centres": [[0, 0], [0, 2]],
        "empty_images": 0,
        "left_out": 3,
        "pictures": [picture, gone],
    }
    return {"datasets": [dataset], "findings": findings, "verdict": "1 error: <script>."}
