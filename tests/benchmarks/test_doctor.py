"""The benchmark of the doctor ends, with its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.doctor import measure


@pytest.mark.slow
def test_figures(tmp_path: Path) -> None:
    figures = measure(tmp_path, images=3)
    assert figures["images"] == 3 and figures["seconds"] > 0
    assert set(figures["findings"]) <= {"instance_numbers", "few_examples", "class_unused"}
