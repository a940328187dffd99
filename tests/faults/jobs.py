"""Whole commands, so small that each takes a second or two, in processes that can be killed.

A process is forked from this one, where everything is imported already: a kill costs no start-up.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
WriteDataset = Callable[[str, Path], dict[str, Any]]
SEED = int(os.environ.get("TRANSFER_FAULT_SEED", "1"))
LONGEST = 120.0  # seconds; nothing here takes more than ten

CONFIG = """
_BASE_: {repository}/configs/shapes/Base-shapes.yaml
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  TRANSFER: {{KEEP: random_init}}
  RESNETS: {{STEM_OUT_CHANNELS: 4, RES2_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 4}}
  FPN: {{OUT_CHANNELS: 32}}
  ROI_MASK_HEAD: {{CONV_DIM: 32}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TRAIN: 10, POST_NMS_TOPK_TEST: 10}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATASETS: {{CATALOG: my.yaml, TRAIN: [toy_train], TEST: [toy_val]}}
DATALOADER: {{NUM_WORKERS: 0}}
SEED: 3
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 8, STEPS: [], WARMUP_ITERS: 1, BASE_LR: 0.001,
  CHECKPOINT_PERIOD: 2, EMA_DECAY: 0.9}}
TEST: {{DETECTIONS_PER_IMAGE: 5, EVAL_PERIOD: 4}}
OUTPUT_DIR: run
"""


@dataclass(frozen=True)
class Job:
    """A command, in a folder that has data, ``config.yaml`` and, if it ``needs_run``, a run in it.

    Attributes:
        tool: module and function.
        arguments: of the command line.
        again: beside them, once it was cut off.
        results: globs of the files that come out the same, however often it was.
    """

    name: str
    tool: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    again: tuple[str, ...] = ()
    needs_run: bool = True


TRAIN = ("train_net:train_net", ("--config-file", "config.yaml"))
EVALUATED = ("run/evaluation.json", "run/inference/*/coco_instances_results.json")
TRAINED = ("run/model_final.safetensors", *EVALUATED)
JOBS = [
    Job("train", *TRAIN, TRAINED, ("--resume",), needs_run=False),
    Job("evaluate", TRAIN[0], (*TRAIN[1], "--eval-only"), EVALUATED),
    Job("explain", "explain_ap:explain_ap_tool", ("run",), ("run/**/explanation.json",)),
    Job(
        *("convert", "check_dataset:check_dataset"),
        ("--catalog", "my.yaml", "toy_train", "--convert", "labelme", "out"),
        ("out/**/*.*",),
    ),
    Job(
        *("fix", "check_dataset:check_dataset"),
        ("--catalog", "my.yaml", "toy_train", "--fix", "out", "--html", "doctor.html"),
        ("out/**/*.*",),
    ),
    Job(
        *("predict", "predict:predict_tool"),
        (
            *("--config-file", "run/config.yaml", "--input", "images/train", "--output", "out"),
            *("--overlay", "--json", "--masks", "--labelme", "--score", "0"),
        ),
        ("out/**/*.*",),
    ),
    Job(
        *("few_shot", "make_few_shot:make_few_shot_tool"),
        ("toy_train", "--catalog", "my.yaml", "--shots", "1", "--seeds", "2", "--output", "out"),
        ("out/**/*.*",),
    ),
    Job(
        *("config", "make_config:make_config_tool"),
        ("--catalog", "my.yaml", "--train", "toy_train", "--val", "toy_val", "-o", "out.yaml"),
        ("out.yaml",),
    ),
]


def warm_up() -> None:
    """Import all that a command needs, so that no forked process has to."""
    package = REPOSITORY / "transfer_maskrcnn"
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        if path.stem not in ("__init__", "child"):
            importlib.import_module(name)


def prepare(folder: Path, write_dataset: WriteDataset) -> None:
    entry = write_dataset("coco", folder)
    entry = {k: os.path.relpath(folder / v, folder) if k in PATHS else v for k, v in entry.items()}
    (folder / "my.yaml").write_text(yaml.safe_dump({"toy_train": entry, "toy_val": entry}))
    (folder / "config.yaml").write_text(CONFIG.format(repository=REPOSITORY))


PATHS = ("annotations", "image_root")


def start(job: Job, folder: Path, *, again: bool = False, most_bytes: int = 0) -> int:
    """Start a command in ``folder``, its output in ``said.txt``; returns the process.

    Args:
        most_bytes: of any file that it writes, as on a disk that is nearly full; 0: no limit.
    """
    module, _, function = job.tool.partition(":")
    tool = getattr(importlib.import_module(f"transfer_maskrcnn.commands.{module}"), function)
    reader, writer = os.pipe()  # which no limit on files concerns
    process = os.fork()
    if process:
        os.close(writer)
        with suppress(OSError):  # the child does the same, and may have been faster
            os.setpgid(process, process)
        Thread(target=_note, args=(reader, Path(f"{folder}.txt")), daemon=True).start()
        return process
    status = 70
    try:
        os.setpgrp()
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(writer, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
        if most_bytes:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        sys.argv = [module, *job.arguments, *(job.again if again else ())]
        status = _status(tool)
    finally:
        os._exit(status)


def _note(reader: int, path: Path) -> None:
    with open(reader, "rb") as words, path.open("wb") as file:
        shutil.copyfileobj(words, file)


def _status(tool: Callable[[], object]) -> int:
    try:
        tool()
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
            return 1
        return stopped.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def wait(process: int, seconds: float = LONGEST, sent: int = signal.SIGKILL) -> int | None:
    """The status of a process that ends within ``seconds``; None, and it got ``sent``, otherwise.

    What does not end of SIGTERM and SIGINT within ``LONGEST`` either is an error.
    """
    until = time.monotonic() + seconds
    signalled = False
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return None if signalled else os.waitstatus_to_exitcode(status)
        if time.monotonic() > until and not signalled:
            os.killpg(process, sent)
            signalled, until = True, time.monotonic() + LONGEST
        elif time.monotonic() > until:
            os.killpg(process, signal.SIGKILL)
            raise TimeoutError(f"a process hung for {LONGEST} s after signal {sent}")
        time.sleep(0.002)


def said(folder: Path) -> str:
    time.sleep(0.05)  # for the thread that writes it
    return Path(f"{folder}.txt").read_text(errors="replace")


def results(job: Job, folder: Path) -> dict[str, bytes | object]:
    """What came out, by name; JSON as what it means."""
    found = {p for pattern in job.results for p in folder.glob(pattern) if p.is_file()}
    assert found, said(folder)
    return {
        str(path.relative_to(folder)): json.loads(content) if path.suffix == ".json" else content
        for path in sorted(found)
        for content in [path.read_bytes().replace(str(folder).encode(), b"")]
    }


def litter(folder: Path) -> list[str]:
    """Files that no command leaves when it ends."""
    return [
        str(p) for p in folder.rglob(".*") if p.name.endswith(".part") or "unfinished" in p.name
    ]


def copy(origin: Path, folder: Path) -> Path:
    shutil.copytree(origin, folder, symlinks=True)
    return folder
