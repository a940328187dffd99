"""What follows an evaluation, where its file is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.engine.evaluation import _record


@pytest.mark.parametrize("content", ["{bad", "3", ""])
def test_a_damaged_file_is_begun_anew(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path)])
    _record(cfg, RunSpec(("x",)), {"a_val": {"bbox": {}}}, nn.Linear(1, 1))
    assert json.loads(path.read_text()) == {"a_val": {"bbox": {}}}
    assert f"{path} is damaged, and begun anew" in caplog.text
