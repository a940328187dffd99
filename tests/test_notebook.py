"""docs/notebooks/quickstart.ipynb, run as it is: without a network, on the images it generates."""

from __future__ import annotations

import ast
import csv
import json
import os
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_nothing_is_stored_that_was_not_just_run() -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)


def test_the_first_cell_installs_what_is_missing_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    exec(CODE[0], {})
    assert ran == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(CODE[0], {})
    assert [command[-1].split("/")[-1] for command in ran] == [
        "detectron2.git",
        "transfer-maskrcnn",
    ]


def test_cells_are_plain_python() -> None:
    parsed = [ast.parse(cell) for cell in CODE]  # "!pip" and "%matplotlib" are no Python
    assert len(parsed) > 3 and all(cell.body for cell in parsed)


@pytest.mark.slow
def test_it_runs_in_under_four_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient needs Python 3.11")
    nbformat = pytest.importorskip("nbformat")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("TRANSFER_CACHE", "")
    paths = [str(NOTEBOOK.parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    began = time.monotonic()
    resources = {"metadata": {"path": str(work)}}
    nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    assert time.monotonic() - began < 240
    with (work / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= {"star", "heart", "ring"}
    done = json.loads((work / "output" / "first" / "eval_history.json").read_text())
    if done[-1]["iteration"] >= 100:  # a busy machine gets through less
        assert rows
    assert len(json.loads((work / "found.json").read_text())) == len(rows)
    shown = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "data" in o]
    assert sum("image/png" in output["data"] for output in shown) == 4
    assert (work / "output" / "first" / "report.html").is_file()
