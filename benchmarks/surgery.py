"""Sides that read a 170 MB weight file, and that move it into a model."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from detectron2 import model_zoo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.pairs import Side
from benchmarks.training import ZOO
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.plan import apply_plan, plan_transfer

KINDS = ("pkl", "pth", "safetensors")


def build(classes: int) -> nn.Module:
    """A full-size R50-FPN with random weights, on the CPU."""
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", str(classes), "MODEL.DEVICE", "cpu"]
    cfg = load_config(model_zoo.get_config_file(ZOO), opts)
    return build_model(cfg)


def write_files(folder: Path) -> dict[str, Path]:
    """An 80-class detector as .pkl (model zoo's form), .pth and .safetensors."""
    state = {name: tensor.clone() for name, tensor in build(80).state_dict().items()}
    paths = {kind: folder / f"zoo.{kind}" for kind in KINDS}
    with paths["pkl"].open("wb") as file:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        pickle.dump({"model": arrays, "__author__": "benchmark"}, file)
    torch.save({"model": state}, paths["pth"])
    save_file(state, paths["safetensors"])
    return paths


class Reading(Side):
    """The file's tensors in memory, by the library's own reader; each is looked at once."""

    def __init__(self, path: str):
        self._path = Path(path)

    def run(self) -> None:
        tensors: dict[str, Tensor]
        if self._path.suffix == ".pkl":
            with self._path.open("rb") as file:
                arrays = pickle.load(file)["model"]
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        elif self._path.suffix == ".pth":
            tensors = torch.load(self._path, weights_only=True)["model"]
        else:
            tensors = load_file(self._path)
        for tensor in tensors.values():
            tensor.sum()

    def facts(self) -> dict[str, int]:
        return {"bytes": self._path.stat().st_size}


class Surgery(Reading):
    """Reading, planning and applying."""

    def __init__(self, path: str):
        super().__init__(path)
        self._model = build(3)

    def run(self) -> None:
        source = load_weights(self._path)
        apply_plan(plan_transfer(source, self._model), source, self._model)
