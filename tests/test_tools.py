"""What every tool has in common, run as a script."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")])


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_help_has_an_example_and_fits_80_columns(
    tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv/bin/python"))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tool), run_name="__main__")
    shown = capsys.readouterr().out
    assert stopped.value.code in (0, None)
    assert "xample" in shown and f".venv/bin/python {tool.relative_to(ROOT)}" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_importing_it_does_nothing(tool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(tool), run_name="imported")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
