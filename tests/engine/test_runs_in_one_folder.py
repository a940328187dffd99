"""OUTPUT_DIR and the runs in it: an earlier one moves whole, two at once are refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from transfer_maskrcnn.cli import parse_arguments
from transfer_maskrcnn.commands.train_net import run_process, train_parser
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.run import LOCK_FILE, Logs, only_run_in

HOLD = """
import sys, time
from transfer_maskrcnn.engine.run import only_run_in
with only_run_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def command(toy: Callable[..., CfgNode], tmp_path: Path) -> Callable[..., None]:
    """command(*opts): tools/train_net.py in this process, on a toy, into tmp_path/run."""
    cfg = toy("SOLVER.MAX_ITER", 1)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "toy.yaml").write_text(cfg.dump())

    def run(*opts: Any) -> None:
        file = ["--config-file", str(tmp_path / "toy.yaml")]
        run_process(parse_arguments(train_parser(), [*file, *map(str, opts)]))

    return run


def test_an_earlier_run_moves_with_its_config_and_log(
    command: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        command("SEED", seed, "OUTPUT_DIR", "run")
    now, before = tmp_path / "run", tmp_path / "run" / "earlier_run_1"
    for folder, seed in ((before, 1), (now, 2)):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["SEED"] == seed
        assert config["MODEL"]["WEIGHTS"] == str(folder / "model_final.pth"), "its own, absolute"
        assert load_config(str(folder / "config.yaml")).MODEL.WEIGHTS == ""
        assert json.loads((folder / "run.json").read_text())["spec"]["seed"] == seed
        log = (folder / "log.txt").read_text()
        assert log.count("schedule: 1 iterations") == 1, "each run has its own"
    assert "held an earlier run" in (now / "log.txt").read_text()


def test_an_evaluation_is_of_the_run_beside_the_config(
    command: Callable[..., None], tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    command()
    run.rename(moved)
    command()
    evaluate = ["--config-file", str(moved / "config.yaml"), "--eval-only"]
    sets = yaml.safe_load((moved / "config.yaml").read_text())["DATASETS"]["TRAIN"]
    other = (run / "evaluation.json").read_text()
    wrong = ["MODEL.WEIGHTS", str(tmp_path / "gone.pth")]
    for opts in (wrong, []):
        args = [*evaluate, "DATASETS.TEST", str(tuple(sets)), *opts]
        with pytest.raises(SystemExit) if opts else nullcontext():
            run_process(parse_arguments(train_parser(), args))
        assert (moved / "inference").exists() == (opts == []), "an error leaves nothing"
    assert (run / "evaluation.json").read_text() == other != (moved / "evaluation.json").read_text()
    assert not (run / "inference").exists()


def test_a_mistake_moves_nothing(command: Callable[..., None], tmp_path: Path) -> None:
    command()
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    log = (tmp_path / "run" / "log.txt").read_text()
    for opts in (
        ["MODEL.WEIGHTS", tmp_path / "mistyped.pth"],
        ["MODEL.WEIGHTS", tmp_path / "mistyped.pth", "MODEL.TRANSFER.ENABLED", True],
        ["MODEL.TRANSFER.ENABLED", True],  # no weights to keep anything of
        ["SOLVER.EMA_DECAY", 3.0],
        ["DATASETS.TEST", "('nowhere',)"],
        ["MODEL.WEIGHTS", tmp_path / "run", "MODEL.TRANSFER.ENABLED", True],  # would move itself
    ):
        with pytest.raises(SystemExit, match=r"^error: "):
            command(*opts)
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == left
        assert (tmp_path / "run" / "log.txt").read_text() == log


def test_a_runs_own_config_begins_another_in_its_folder(
    command: Callable[..., None], tmp_path: Path
) -> None:
    command()
    folder = tmp_path / "run"
    run_process(parse_arguments(train_parser(), ["--config-file", str(folder / "config.yaml")]))
    assert {"config.yaml", "run.json", "model_final.pth"} <= {p.name for p in folder.iterdir()}
    assert (folder / "earlier_run_1" / "config.yaml").is_file()


def test_what_is_not_resumed_keeps_its_config(command: Callable[..., None], tmp_path: Path) -> None:
    command("SOLVER.MAX_ITER", 2)
    config = tmp_path / "run" / "config.yaml"
    before = config.read_text()
    command("--resume", "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 7)  # it is complete
    assert config.read_text() == before
    with pytest.raises(SystemExit, match=r"beyond SOLVER\.MAX_ITER 1"):
        command("--resume", "SOLVER.MAX_ITER", 1)
    assert config.read_text() == before
    command("--resume", "SOLVER.MAX_ITER", 3, "MODEL.TRANSFER.TRUST_PICKLE", True)  # goes on
    assert yaml.safe_load(config.read_text())["SOLVER"]["MAX_ITER"] == 3


@pytest.mark.slow
def test_two_runs_at_once_are_refused(command: Callable[..., None], tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(SystemExit, match=rf"process {holder.pid}\).*choose another OUTPUT_DIR"):
            command()
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_FILE]
    finally:
        holder.kill()
        holder.wait()
    command()  # a dead process holds nothing


def test_a_run_lets_go_when_it_ends(tmp_path: Path) -> None:
    for _ in range(2):
        with only_run_in(str(tmp_path)):
            assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())


@pytest.mark.parametrize(("rank", "file", "shown"), [(0, "log.txt", 1), (1, "log.txt.rank1", 0)])
def test_one_process_alone_speaks(
    rank: int,
    file: str,
    shown: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("transfer_maskrcnn")
    before = logger.handlers[:]
    logger.handlers.clear()
    setup_logger.cache_clear()  # it makes the handlers of a name once
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    try:
        logs = Logs()
        logger.info("early")
        assert not list(tmp_path.iterdir())
        logs.write_to(str(tmp_path))
        logger.info("late")
        (written,) = tmp_path.iterdir()
        assert written.name == file
        lines = written.read_text().splitlines()
        assert [line.rpartition(" ")[2] for line in lines] == ["early", "late"]
        terminal = sum(type(handler) is logging.StreamHandler for handler in logger.handlers)
        assert terminal == shown
    finally:
        for handler in logger.handlers[:]:
            handler.close()
        logger.handlers[:] = before
