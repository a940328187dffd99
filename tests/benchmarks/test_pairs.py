"""Sides of a comparison run in processes of their own, in turn."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.pairs import compare

SIDES = """
import time
from pathlib import Path
from benchmarks.pairs import Side

class Logged(Side):
    def __init__(self, name, log, pause=0.0):
        self.name, self.log, self.pause, self.runs = name, Path(log), pause, 0
        print("what a library prints is no answer")
    def run(self):
        self.runs += 1
        time.sleep(self.pause)
        with self.log.open("a") as file:
            file.write(self.name)
    def facts(self):
        return {"runs": self.runs}

class Broken(Side):
    def run(self):
        raise ValueError("no weights here")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "some_sides.py").write_text(SIDES)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path}


def test_sides_take_turns(tmp_path: Path, environment: dict[str, str]) -> None:
    log = tmp_path / "log"
    sides = {
        name: ("some_sides:Logged", {"name": name, "log": str(log), "pause": pause})
        for name, pause in (("a", 0.0), ("b", 0.2))
    }
    seconds, facts = compare(sides, runs=3, warmup=1, environment=environment)
    assert log.read_text() == "abababab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert min(seconds["b"]) >= 0.2, "what is timed is the run"
    assert all(f["runs"] == 4 and f["peak_mb"] > 1 for f in facts.values())


def test_an_error_in_a_side_is_shown(environment: dict[str, str]) -> None:
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="ValueError: no weights here"):
        compare({"a": ("some_sides:Broken", {})}, runs=1, environment=environment)
    assert time.monotonic() - started < 60
