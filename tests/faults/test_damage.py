"""Files of a run, damaged: whoever reads them says so in an error of the project's own, or goes on.

Nobody hangs, nobody fails in another way, and nobody reads a wrong value for a right one: what has
no checksum is looked at.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ..data.formats.mutations import change_bytes, change_content
from .jobs import JOBS, SEED, WriteDataset, copy, prepare, said, start, wait, warm_up

pytestmark = pytest.mark.faults
MUTANTS = int(os.environ.get("TRANSFER_FAULT_MUTANTS", "150"))  # of each reader
MOST_SECONDS = 10.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_dataset: WriteDataset) -> Path:
    """A folder with data and a finished run in ``run``."""
    warm_up()
    folder = tmp_path_factory.mktemp("damage") / "a"
    folder.mkdir()
    prepare(folder, write_dataset)
    assert wait(start(JOBS[0], folder)) == 0, said(folder)
    return folder


def report(folder: Path) -> None:
    from transfer_maskrcnn.report.run_page import write_run_report

    write_run_report(folder / "run")


def explain(folder: Path) -> None:
    from transfer_maskrcnn.commands.explain_ap import _main

    _main(folder / "run")


def resume(folder: Path) -> None:
    """All that is read before a step is made."""
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.engine.manifest import check_same_run, resumed_seed
    from transfer_maskrcnn.surgery.load import last_checkpoint, load_checkpoint

    cfg = load_config(str(folder / "run" / "config.yaml"))
    cfg.OUTPUT_DIR = str(folder / "run")
    resumed_seed(cfg)
    check_same_run(cfg)
    found = last_checkpoint(folder / "run")
    if found is not None:
        load_checkpoint(found)


def open_model(folder: Path) -> None:
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.inference.load import build_trained, find_weights

    config = str(folder / "run" / "config.yaml")
    cfg = load_config(config)
    build_trained(cfg, find_weights(cfg, config))


#: reader -> what of a run's folder it reads
READERS: list[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (
        report,
        ("*.json", "inference/**/*.json", "metrics.json", "config.yaml", "inference/**/*.npz"),
    ),
    (explain, ("inference/**/*.json", "inference/**/*.npz", "evaluation.json")),
    (resume, ("config.yaml", "run.json", "last_checkpoint", "model_final.pth", "*.json")),
    (open_model, ("config.yaml", "model_final.safetensors", "last_checkpoint", "run.json")),
]


@pytest.mark.parametrize(("read", "globs"), READERS, ids=[read.__name__ for read, _ in READERS])
def test_a_damaged_run(
    read: Callable[[Path], None], globs: tuple[str, ...], run: Path, tmp_path: Path
) -> None:
    from transfer_maskrcnn.errors import TransferError

    folder = copy(run, tmp_path / "b")
    files = sorted({p for pattern in globs for p in (folder / "run").glob(pattern)})
    files = [path for path in files if path.is_file() and path.stat().st_size < 5_000_000]
    assert len(files) >= 3
    os.chdir(folder)
    read(folder)
    chance, ended = random.Random(f"{SEED} {read.__name__}"), Counter[str]()
    for number in range(MUTANTS // (3 if read is report else 1)):  # which draws plots
        path = chance.choice(files)
        original = path.read_bytes()
        is_json = path.suffix == ".json" and path.name != "metrics.json"  # a line of JSON each
        (change_content if is_json and chance.random() < 0.7 else change_bytes)(path, chance)
        begin = time.monotonic()
        try:
            read(folder)
            ended["fine"] += 1
        except (TransferError, OSError) as error:
            ended["refused"] += 1
            assert len(str(error)) < 3000, str(error)[:300]
        except BaseException as error:
            kept = shutil.copy(path, tmp_path / f"{number}_{path.name}")
            raise AssertionError(f"seed {SEED}: {path}, kept as {kept}: {error!r}") from error
        assert time.monotonic() - begin < MOST_SECONDS, path
        path.write_bytes(original)
    print(f"seed {SEED}: {read.__name__}: {dict(ended)}")
