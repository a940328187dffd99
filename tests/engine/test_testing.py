"""What follows an evaluation, where its file is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer_maskrcnn.engine.setup import load_config
from transfer_maskrcnn.engine.testing import read_extension, record_evaluation


@pytest.mark.parametrize("content", ["{bad", "3", ""])
def test_a_damaged_file_is_begun_anew(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    assert read_extension(str(tmp_path)) is None
    record_evaluation(load_config("", ["OUTPUT_DIR", str(tmp_path)]), {"a_val": {"bbox": {}}}, None)
    assert json.loads(path.read_text()) == {"a_val": {"bbox": {}}}
    assert f"{path} is damaged, and begun anew" in caplog.text
