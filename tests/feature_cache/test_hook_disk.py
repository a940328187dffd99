"""What a run finds on the disk and leaves there, and that it survives kills and full disks."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from safetensors import SafetensorError
from safetensors.torch import load

from transfer_maskrcnn.data import cache as feature_store
from transfer_maskrcnn.engine.hooks.record import StopTraining
from transfer_maskrcnn.feature_cache import hook as cache_hook
from transfer_maskrcnn.feature_cache.hook import FOLDER

Toy = Callable[..., CfgNode]
Train = Callable[..., Any]
BRIEF = ("MODEL.TRANSFER.FREEZE", "backbone_fpn", "SOLVER.MAX_ITER", 6)
CACHE = "MODEL.TRANSFER.CACHE_FEATURES"
DISK = (*BRIEF, CACHE, "disk")
VIEWS = 8  # of four images, as they are and flipped


def entries(cfg: CfgNode) -> list[Path]:
    return sorted(Path(cfg.OUTPUT_DIR, FOLDER).glob("*/*"))


def again(cfg: CfgNode, *opts: Any) -> CfgNode:
    """The config of a later run in the same OUTPUT_DIR."""
    later = cfg.clone()
    later.merge_from_list(list(opts))
    return later


LATER = [
    # options of a later run, entries that it computes
    ((), 0),
    (("SOLVER.BASE_LR", 0.02), 0),
    (("MODEL.PIXEL_STD", [50.0, 58.0, 58.0]), VIEWS),
    (("MODEL.TRANSFER.FREEZE", "backbone"), VIEWS),
]


@pytest.mark.parametrize(("opts", "number"), LATER)
def test_a_later_run(
    opts: tuple[Any, ...], number: int, toy: Toy, train: Train, computed: list[int]
) -> None:
    cfg = toy(*DISK)
    train(cfg)
    first = entries(cfg)
    assert len(computed) == len(first) == VIEWS
    del computed[:]
    train(again(cfg, *opts))
    assert len(computed) == number
    assert len(entries(cfg)) == VIEWS, "what belongs to other weights or another config is removed"
    assert (entries(cfg) == first) is (number == 0)


def test_an_image_that_changed(toy: Toy, train: Train, computed: list[int]) -> None:
    cfg = toy(*DISK)
    train(cfg)
    record = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[1]
    pixels = cv2.imread(record["file_name"])
    pixels[-1, -1] += 1
    cv2.imwrite(record["file_name"], pixels)
    del computed[:]
    train(again(cfg))
    assert len(computed) == 2, "both views of the image"


DAMAGE = [
    lambda content: content[: len(content) // 2],  # truncated
    lambda content: b"",
    lambda content: b"\xff" * len(content),  # no header
    lambda content: b"{}",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_afresh(
    damage: Callable[[bytes], bytes],
    toy: Toy,
    train: Train,
    computed: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = toy(*DISK)
    whole = train(cfg)
    victim = entries(cfg)[0]
    content = load(victim.read_bytes())
    victim.write_bytes(damage(victim.read_bytes()))
    del computed[:]
    assert train(again(cfg)).difference(whole) == 0
    assert len(computed) == 1
    assert f"{victim} is damaged" in caplog.text
    mended = load(victim.read_bytes())
    assert all(torch.equal(mended[name], tensor) for name, tensor in content.items())


FULL: list[tuple[str, Any]] = [
    # what of feature_store fails, and how
    ("save_file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ("save_file", SafetensorError("I/O error: No space left on device")),
    ("disk_usage", SimpleNamespace(free=2**20)),
]


@pytest.mark.parametrize(("function", "failure"), FULL)
@pytest.mark.slow
def test_a_full_disk(
    function: str,
    failure: Any,
    toy: Toy,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It takes three entries; the others are computed each time they are drawn."""
    caplog.set_level(logging.INFO, logger="transfer_maskrcnn")
    plain = train(toy(*DISK))
    place: Any = feature_store if function == "save_file" else feature_store.shutil
    works, calls = getattr(place, function), []

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) <= 3:
            return works(*arguments, **options)
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(place, function, fail)
    cfg = toy(*DISK)
    assert train(cfg).difference(plain) == 0
    assert len(entries(cfg)) == 3
    assert caplog.text.count("takes no more") == 1
    assert "computed once for 3 views of 4 images" in caplog.text
    assert "no room for 5 more" in caplog.text


@pytest.mark.slow
def test_little_memory(toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode memory keeps what fits; auto puts all on the disk."""
    plain = train(toy(*BRIEF, CACHE, "off"))
    on_disk = toy(*DISK)
    train(on_disk)
    size = entries(on_disk)[0].stat().st_size
    monkeypatch.setattr(cache_hook, "free_memory", lambda: 5 * size)  # half of it is used
    for mode, expected in (("memory", 0), ("auto", VIEWS)):
        cfg = toy(*BRIEF, CACHE, mode)
        counter = CountEntries(cfg)
        assert train(cfg, counter).difference(plain) < 1e-5
        assert counter.number == expected, mode


class CountEntries(HookBase):
    """Counts the files of the cache while it trains."""

    def __init__(self, cfg: CfgNode):
        self._cfg = cfg

    def after_step(self) -> None:
        self.number = len(entries(self._cfg))


class Stop(HookBase):
    def __init__(self, error: type[Exception], iteration: int):
        self._error = error
        self._iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self._iteration:
            if self._error is StopTraining:  # as BestCheckpoint
                self.trainer.end_at(self._iteration)
            raise self._error()


ENDS = [
    # what ends a run after three iterations, whether "auto" leaves its files for --resume
    (None, False),
    (StopTraining, False),
    (RuntimeError, True),
]


@pytest.mark.parametrize(("error", "left"), ENDS)
def test_auto_cleans_up_after_a_finished_run(
    error: type[Exception] | None,
    left: bool,
    toy: Toy,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_hook, "free_memory", lambda: 0)
    cfg = toy(*BRIEF, CACHE, "auto")
    hooks = [Stop(error, 3)] if error else []
    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            train(cfg, *hooks)
    else:
        train(cfg, *hooks)
    assert len(entries(cfg)) == (VIEWS if left else 0)
    assert Path(cfg.OUTPUT_DIR, FOLDER).exists() is left


HALF = """
import sys, time
from detectron2.config import CfgNode
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data import cache as feature_store
from transfer_maskrcnn.engine.trainer import TransferTrainer
import torch

config, name, annotations, folder = sys.argv[1:]
with open(config) as file:
    cfg = CfgNode.load_cfg(file)
register_dataset(name, format="coco", annotations=annotations, image_root=folder)
from detectron2.data import DatasetCatalog
DatasetCatalog.get(name)
save, calls = feature_store.save_file, []

def half(entry, path, **header):
    save(entry, path, **header)
    calls.append(1)
    if len(calls) == 4:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        print("half", flush=True)
        time.sleep(600)

feature_store.save_file = half
torch.manual_seed(0)
TransferTrainer(cfg).train()
"""


@pytest.mark.slow
def test_a_kill_leaves_whole_entries_only(
    toy: Toy, train: Train, computed: list[int], tmp_path: Path
) -> None:
    cfg = toy(*DISK)
    folder = Path(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]["file_name"]).parent
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "run.py").write_text(HALF)
    arguments = ["config.yaml", cfg.DATASETS.TRAIN[0], str(folder / "coco.json"), str(folder)]
    process = subprocess.Popen(
        [sys.executable, "run.py", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line == "half\n" for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    unfinished = [path for path in entries(cfg) if path.suffix == ".part"]
    assert len(unfinished) == 1
    assert len(entries(cfg)) == 4

    resumed = train(cfg)
    assert len(computed) == VIEWS - 3
    assert len(entries(cfg)) == VIEWS
    assert not unfinished[0].exists()
    assert resumed.difference(train(toy(*DISK))) == 0
