"""Train one model from several starting points, a process each, and collect the AP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transfer_maskrcnn.errors import TransferError


@dataclass(frozen=True)
class ArmResult:
    """One finished run. AP from 0 to 100; seconds are those of the whole process."""

    arm: str
    seed: int
    box_ap: float
    mask_ap: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_arm(
    arm: str, seed: int, train_net: Path, config: Path, output_dir: Path, opts: Sequence[str] = ()
) -> ArmResult:
    """Run ``train_net`` with ``config`` into an emptied ``output_dir``, with a progress bar.

    Raises:
        TransferError: the run failed; shows the end of what it printed.
    """
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir(parents=True)
    command = [sys.executable, str(train_net), "--config-file", str(config)]
    command += ["OUTPUT_DIR", str(output_dir), "SEED", str(seed), *opts]
    console = output_dir / "console.txt"
    started = time.monotonic()
    with console.open("w") as out:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(process, output_dir, f"{arm}, seed {seed}")
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        end = "\n".join(console.read_text(errors="replace").splitlines()[-15:])
        raise TransferError(f"{' '.join(command)}\nended with {process.returncode}:\n{end}")
    seconds = time.monotonic() - started
    results = next(iter(json.loads((output_dir / "evaluation.json").read_text()).values()))
    return ArmResult(arm, seed, _ap(results, "bbox"), _ap(results, "segm"), round(seconds, 1))


def _ap(results: dict[str, Any], task: str) -> float:
    # A model that detects nothing has no entry, and COCO writes NaN (here None): that is AP 0.
    return round(results.get(task, {}).get("AP") or 0.0, 2)


def _watch(process: subprocess.Popen[bytes], output_dir: Path, title: str) -> None:
    """Show the run's iterations until it ends; its last seconds are evaluation."""
    with tqdm(desc=title, unit="it", dynamic_ncols=True, disable=None) as bar:
        while process.poll() is None:
            time.sleep(0.5)
            if bar.total is None and (output_dir / "config.yaml").exists():
                bar.total = _max_iter(output_dir / "config.yaml")
            done = _iterations(output_dir / "metrics.json")
            # the evaluation's own line counts as one iteration more
            bar.update(min(done, bar.total or done) - bar.n)
        if process.returncode == 0 and bar.total:
            bar.update(bar.total - bar.n)


def _max_iter(config: Path) -> int | None:
    lines = [line for line in config.read_text().splitlines() if line.startswith("  MAX_ITER:")]
    return int(lines[0].split()[1]) if lines else None


def _iterations(metrics: Path) -> int:
    if not metrics.exists():
        return 0
    done = 0
    for line in metrics.read_text().splitlines():
        try:
            done = int(json.loads(line)["iteration"]) + 1
        except (ValueError, KeyError):  # the line being written
            continue
    return done
