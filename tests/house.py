#!/usr/bin/env python3
"""How large the package is, and how much of it a plain training needs.

Example:
    python tests/house.py
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAME = "transfer_maskrcnn"
PACKAGE = ROOT / NAME
# figure -> what it may be at most today, and what the design wants with all that is planned
LIMITS = {
    "modules": (148, 170),
    "lines": (30_550, 25_000),
    "statements": (14_700, 14_000),
    "files in the largest room": (16, 20),
    "modules loaded at the first step of a training": (67, 85),
    "files that have run by then": (40, 35),
}
_HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def statements(source: str) -> int:
    """Every statement of a module but docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = sum(
        isinstance(node, _HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None
        for node in nodes
    )
    return sum(isinstance(node, ast.stmt) for node in nodes) - docstrings


def size() -> dict[str, int]:
    """Modules, lines, statements, and how many files the largest folder has."""
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    rooms = Counter(path.parent for path in sources)
    return {
        "modules": len(sources),
        "lines": sum(text.count("\n") for text in sources.values()),
        "statements": sum(map(statements, sources.values())),
        "files in the largest room": max(rooms.values()),
    }


def until_first_step(folder: Path) -> None:
    """A plain training in this process, which ends with its first step: prints how many of the
    package's modules are loaded by then, and the files of which a function has run.

    Data workers are none, so that what maps an image is seen, too.
    """
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "run_step":
            sys.setprofile(None)
            loaded = sum(name.split(".")[0] == NAME for name in sys.modules)
            print("\n".join([str(loaded), *sorted(files)]), file=sys.__stdout__, flush=True)
            os._exit(0)
        # bodies of modules and classes are no functions: they run when they are imported
        function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if event == "call" and function and str(PACKAGE) in code.co_filename:
            files.add(code.co_filename.removeprefix(f"{PACKAGE}/"))

    config = str(ROOT / "configs/shapes/mask_rcnn_transfer.yaml")
    output = ["OUTPUT_DIR", str(folder / "output"), "DATALOADER.NUM_WORKERS", "0"]
    sys.argv = ["train_net.py", "--config-file", config, *output]
    sys.stdout = sys.stderr
    sys.setprofile(note)
    from transfer_maskrcnn.commands.train_net import train_net

    train_net()


def start_of_a_training(folder: Path) -> dict[str, int]:
    """The figures of a training's start; ``folder`` is for its dataset and output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFER_CACHE": ""}
    environment["DETECTRON2_DATASETS"] = str(folder)
    prepare = [sys.executable, str(ROOT / "datasets/prepare_shapes.py"), "--root", str(folder)]
    train = [sys.executable, "-W", "ignore", __file__, str(folder)]
    for command in (prepare, train):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
    loaded, *files = done.stdout.splitlines()
    return {
        "modules loaded at the first step of a training": int(loaded),
        "files that have run by then": len(files),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in {**size(), **start_of_a_training(Path(folder))}.items():
            print(f"{name:<48} {figure:>7,}   the design wants {LIMITS[name][1]:,}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        until_first_step(Path(sys.argv[1]))
    else:
        main()
