#!/usr/bin/env python3
"""What weight surgery costs beside reading the file: a full-size R50-FPN, both in turn.

Example:
    python tools/benchmark.py
"""

import argparse
import pickle
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate
from torch import Tensor

from transfer_maskrcnn.engine.setup import load_config, quiet_third_parties
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.surgery.apply import apply_plan
from transfer_maskrcnn.surgery.plan import plan_transfer
from transfer_maskrcnn.surgery.source import load_source_weights

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "Base-R50-FPN-coco.yaml"


def build(classes: int) -> torch.nn.Module:
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", str(classes), "MODEL.DEVICE", "cpu"]
    return TransferTrainer.build_model(load_config(str(CONFIG), opts))


def write_files(folder: Path) -> list[Path]:
    """An 80-class detector as .pkl (model zoo's form), .pth and .safetensors."""
    state = {name: tensor.clone() for name, tensor in build(80).state_dict().items()}
    paths = [folder / f"zoo.{kind}" for kind in ("pkl", "pth", "safetensors")]
    with paths[0].open("wb") as file:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        pickle.dump({"model": arrays, "__author__": "benchmark"}, file)
    torch.save({"model": state}, paths[1])
    save_file(state, paths[2])
    return paths


def stock_read(path: Path) -> None:
    """The file's tensors in memory, by the library's own reader; each is looked at once."""
    tensors: dict[str, Tensor]
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            tensors = {k: torch.from_numpy(v) for k, v in pickle.load(file)["model"].items()}
    elif path.suffix == ".pth":
        tensors = torch.load(path, weights_only=True)["model"]
    else:
        tensors = load_file(path)
    for tensor in tensors.values():
        tensor.sum()


def surgery(path: Path, model: torch.nn.Module) -> None:
    source = load_source_weights(path)
    apply_plan(plan_transfer(source, model), source, model)


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_mb(action: Callable[[], Any]) -> float:
    """Most anonymous memory that ``action`` adds, in MB; pages of a mapped file do not count."""
    start, peak, done = _anonymous_kb(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _anonymous_kb() - start)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    action()
    done.set()
    thread.join()
    return peak / 1024


def _anonymous_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7, help="of each, in turn (default: 7)")
    runs = parser.parse_args().runs
    quiet_third_parties()
    model = build(3)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in write_files(Path(folder)):
            stock_read(path)  # the file is in the page cache for both
            surgery(path, model)
            pairs = [
                (seconds(partial(stock_read, path)), seconds(partial(surgery, path, model)))
                for _ in range(runs)
            ]
            read, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            memory = peak_mb(partial(surgery, path, model))
            size = path.stat().st_size / 2**20
            rows.append([path.suffix, f"{size:.0f}", read, ours, ratio, f"{memory:.0f}"])
    largest = max(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20
    head = ["file", "MB", "read, s", "read + plan + apply, s", "ratio", "peak memory, MB"]
    print(tabulate(rows, head, floatfmt=".3f"))
    print(f"median of {runs}; {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"largest tensor of the model: {largest:.0f} MB")


if __name__ == "__main__":
    main()
