"""The source model, built from the config of a run that extends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from safetensors.torch import save_file

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.shapes import SOURCE_CLASSES
from transfer_maskrcnn.errors import TransferPlanError, WeightFileError
from transfer_maskrcnn.incremental.source import build_source_model
from transfer_maskrcnn.surgery.load import load_weights


@pytest.fixture
def cfg(repository: Path) -> CfgNode:
    opts: list[Any] = ["MODEL.WEIGHTS", str(repository / "configs/shapes/shapes_source.pth")]
    opts += ["MODEL.DEVICE", "cpu", "MODEL.TRANSFER.KEEP", "class_rows"]
    opts += ["MODEL.TRANSFER.EXTEND", True, "MODEL.TRANSFER.FREEZE", "backbone"]
    cfg = load_config(str(repository / "configs/shapes/Base-shapes.yaml"), opts)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10  # as fit_config leaves it
    cfg.freeze()
    return cfg


def write_unnamed(cfg: CfgNode, folder: Path, without: str = "") -> str:
    """The tensors of the source, without names of classes, and perhaps without some of them."""
    tensors = load_weights(cfg.MODEL.WEIGHTS).tensors
    kept = {k: v.contiguous() for k, v in tensors.items() if not (without and without in k)}
    save_file(kept, folder / "unnamed.safetensors")
    return str(folder / "unnamed.safetensors")


def changed(cfg: CfgNode, *opts: Any) -> CfgNode:
    own = cfg.clone()
    own.defrost()
    own.merge_from_list(list(opts))
    return own


def test_it_is_the_file_and_learns_nothing(cfg: CfgNode) -> None:
    before = str(cfg), torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    model, classes = build_source_model(cfg)
    assert classes == list(SOURCE_CLASSES)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    source = load_weights(cfg.MODEL.WEIGHTS).tensors
    state = model.state_dict()
    assert state.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in state.items())
    assert str(cfg) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1]), "a run draws what it would have drawn"
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_rows_without_a_class_and_of_like_names_keep_their_places(
    cfg: CfgNode, tmp_path: Path
) -> None:
    names = ["circle", "", "Circle", "cross", "rings", "ring", "", "hexagon"]
    file = write_unnamed(cfg, tmp_path)
    model, classes = build_source_model(
        changed(cfg, "MODEL.WEIGHTS", file, "MODEL.TRANSFER.SOURCE_CLASSES", names)
    )
    assert classes == names
    rows = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(model.state_dict()[rows], load_weights(file).tensors[rows])


def test_a_source_without_masks_is_refused(cfg: CfgNode, tmp_path: Path) -> None:
    file = write_unnamed(cfg, tmp_path, without="mask_head")
    opts = ["MODEL.WEIGHTS", file, "MODEL.TRANSFER.SOURCE_CLASSES", list(SOURCE_CLASSES)]
    with pytest.raises(TransferPlanError, match=r"stay random \(first: roi_heads.mask_head"):
        build_source_model(changed(cfg, *opts, "MODEL.TRANSFER.STRICT", False))


def test_a_file_that_is_gone(cfg: CfgNode) -> None:
    with pytest.raises(WeightFileError, match="no such weight file"):
        build_source_model(changed(cfg, "MODEL.WEIGHTS", "gone.pth"))
