"""How far training moved each part; of what was initialised there is no share to tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from transfer_maskrcnn.engine.hooks.record import (
    DRIFT_FILE,
    INITIAL_FILE,
    write_drift,
)
from transfer_maskrcnn.surgery.load import FINAL_FILE
from transfer_maskrcnn.surgery.read import write_weights

HEAD, PREDICTOR = "roi_heads.box_head.fc1.weight", "roi_heads.box_predictor.cls_score.weight"


@pytest.mark.parametrize(
    ("planned", "known"),
    [
        (None, True),  # without surgery: from a checkpoint, say
        ({"transferred": 0, "initialised": 8}, False),
        ({"transferred": 6, "initialised": 2}, True),  # rows of which most came along
        ({"transferred": 2, "initialised": 6}, False),
    ],
)
def test_what_was_initialised_has_none(
    tmp_path: Path, planned: dict[str, int] | None, known: bool
) -> None:
    for name, by in ((INITIAL_FILE, 1.0), (FINAL_FILE, 1.5)):
        state = {HEAD: torch.ones(2, 2), PREDICTOR: torch.full((2, 4), by)}
        write_weights(tmp_path / name, state, {})
    if planned is not None:
        parts = {"roi_heads.box_predictor.cls_score": planned}
        (tmp_path / "transfer_plan.json").write_text(json.dumps({"parts": parts}))
    write_drift(tmp_path)
    drift = json.loads((tmp_path / DRIFT_FILE).read_text())
    assert drift == {
        "roi_heads.box_head": 0.0,
        "roi_heads.box_predictor.cls_score": pytest.approx(0.5) if known else None,
    }
