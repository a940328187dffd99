"""Every row of the benchmark can be measured; here as small as it gets, in one process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import rows, table

TINY = rows.Plan(size=64, pictures=4, runs=1, epochs=1, images=3, annotations=40)
PEAKS = {"cpu": {"fp32": 1e11, "fast": 1e12, "bytes": 1e10}}
ROWS = [
    *("full fine-tune step", "heads-only step", "heads-only, 20 epochs"),
    *("inference at 64, masks of 480x640", "inference at 64, masks of 2160x3840"),
    "COCO evaluation, 3 images",
    *("registration of 40 annotations, first", "registration of 40 annotations, second"),
    *(".pkl", ".pth", ".safetensors"),
]


def in_this_process(
    sides: dict[str, tuple[str, dict[str, Any]]], runs: int, warmup: int = 1
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """What ``compare`` does, without a start of Python for every side."""
    facts = {}
    for name, (factory, arguments) in sides.items():
        module, made = factory.split(":")
        side = getattr(importlib.import_module(module), made)(**arguments)
        side.prepare()
        side.run()
        facts[name] = side.facts()
    return {name: [1.0] * runs for name in sides}, facts


@pytest.mark.slow
def test_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "compare", in_this_process)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = list(rows.rows(TINY, tmp_path))
    assert [any(part in row.name for row in done) for part in ROWS] == [True] * len(ROWS)
    assert len(done) == len(ROWS)
    for row in done:
        text = table.text_of(row, PEAKS)
        assert "here" in row.seconds and max(map(len, text.splitlines())) <= 80
    evaluated = next(row for row in done if "evaluation" in row.name)
    assert evaluated.facts["here"]["bbox"] == pytest.approx(evaluated.facts["pycocotools"]["bbox"])
