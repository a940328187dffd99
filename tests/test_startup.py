"""A tool answers --help at once: what is slow to import waits for the arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")])
SLOW = {"torch", "torchvision", "detectron2", "matplotlib", "cv2", "pycocotools", "scipy"}
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    status = stop.code or 0
print("\\n", status, *sorted(sys.modules))
"""


def loaded_by(script: str, *arguments: object) -> list[str]:
    """The last words that a script prints in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_help_loads_nothing_slow(tool: Path) -> None:
    status, *modules = loaded_by(RUN, tool, "--help")
    assert (status, SLOW.intersection(modules)) == ("0", set())


def test_importing_the_package_loads_nothing_slow() -> None:
    modules = loaded_by("import sys, transfer_maskrcnn; print(*sys.modules)")
    assert "transfer_maskrcnn" in modules and not SLOW.intersection(modules)
