"""Runs the sides of a comparison in processes of their own, in turn: A B A B ..."""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any


class Side(ABC):
    """One side of a comparison, made in a process of its own."""

    def prepare(self) -> None:  # noqa: B027 (most sides have nothing to prepare)
        """What comes before each run and is not timed."""

    @abstractmethod
    def run(self) -> None:
        """What is timed."""

    def facts(self) -> dict[str, Any]:
        """Figures that go with the timing, such as the number of foreground RoIs."""
        return {}


class Process:
    """A :class:`Side` in a new Python process."""

    def __init__(self, factory: str, arguments: dict[str, Any], environment: dict[str, str]):
        """
        Args:
            factory: "module:callable", which makes the side from ``arguments``.
            environment: added to this process's.
        """
        request = json.dumps([factory, arguments])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[1],  # `-m` finds this package there
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Until the side is made."""
        self._answer()

    def seconds(self) -> float:
        """How long one run takes."""
        return float(self._ask("run"))

    def facts(self) -> dict[str, Any]:
        """The side's own facts, and ``peak_mb``: the most memory that its process ever held."""
        return dict(self._ask("facts"))

    def close(self) -> None:
        """End the process and its data loaders' workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side of the benchmark ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]


def compare(
    sides: dict[str, tuple[str, dict[str, Any]]],
    runs: int,
    warmup: int = 1,
    environment: dict[str, str] | None = None,
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Seconds of ``runs`` runs of each side, taken in turn after ``warmup`` of each, and facts.

    Args:
        sides: name -> factory and arguments, as :class:`Process` takes them.
        runs: of each.
        warmup: runs of each before, not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with ExitStack() as stack:
        processes = {}
        for name, (factory, arguments) in sides.items():
            processes[name] = Process(factory, arguments, environment or {})
            stack.callback(processes[name].close)
        for process in processes.values():
            process.wait_until_ready()
        for number in range(warmup + runs):
            for name, process in processes.items():
                taken = process.seconds()
                if number >= warmup:
                    seconds[name].append(taken)
        facts = {name: process.facts() for name, process in processes.items()}
    return seconds, facts


def _serve(request: str, questions: Sequence[str] | IO[str], answers: IO[str]) -> None:
    """Make the side, then answer one line with one line."""

    def answer(value: Any) -> None:
        answers.write(json.dumps({"value": value}) + "\n")
        answers.flush()

    factory, arguments = json.loads(request)
    module, name = factory.split(":")
    side: Side = getattr(importlib.import_module(module), name)(**arguments)
    answer("ready")
    for question in questions:
        if question.strip() == "run":
            side.prepare()
            started = time.perf_counter()
            side.run()
            answer(time.perf_counter() - started)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            answer({"peak_mb": round(peak, 1), **side.facts()})


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    logging.disable(logging.WARNING)
    try:
        _serve(sys.argv[1], sys.stdin, answers)
    except Exception:
        answers.write(json.dumps({"error": traceback.format_exc()}) + "\n")
        answers.flush()
        raise


if __name__ == "__main__":
    main()
