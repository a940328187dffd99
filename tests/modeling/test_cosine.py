"""The cosine classifier: its numbers, its place in each model, and files of the other kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.modeling.build import CosineClassifier, build_model

KEY = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
COSINE = [KEY, 20.0]


def classifier(rows: list[list[float]], scale: float = 20.0) -> CosineClassifier:
    return CosineClassifier(nn.Parameter(torch.tensor(rows)), scale)


def test_scores_are_cosines() -> None:
    module = classifier([[3.0, 0.0], [1.0, 1.0], [0.0, -0.01]])
    scores = module(torch.tensor([[0.5, 0.0], [0.0, 70.0]]))
    diagonal = 20 / 2**0.5
    expected = torch.tensor([[20.0, diagonal, 0.0], [0.0, diagonal, -20.0]])
    assert torch.allclose(scores, expected)


def test_zeros_and_nothing() -> None:
    module = classifier([[1.0, 2.0], [0.0, 0.0]])
    features = torch.zeros(1, 2, requires_grad=True)
    scores = module(features)
    assert scores.tolist() == [[0.0, 0.0]]
    scores.sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert module.weight.grad is not None and module.weight.grad.isfinite().all()
    assert module(torch.zeros(0, 2)).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    module = classifier(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).tolist())
    features = torch.randn(9, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = module(features)
    with torch.autocast("cpu", torch.bfloat16):
        scores = module(features)
    assert scores.dtype == torch.float32 and torch.equal(scores, exact)


HEADS = [
    # options, how many classifiers the model has
    ([], 1),
    (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], 3),
    (
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.RPN.IN_FEATURES", ["res4"]),
            *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[32]], "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
        ],
        1,
    ),
]


@pytest.mark.parametrize(("opts", "count"), HEADS)
def test_takes_the_place_of_each_classifier(
    opts: list[Any], count: int, toy: Callable[..., CfgNode]
) -> None:
    cfg = toy(*COSINE)
    cfg.merge_from_list(opts)
    if count > 1:
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model = build_model(cfg).eval()
    found = {n: m for n, m in model.named_modules() if isinstance(m, CosineClassifier)}
    assert len(found) == count and all(name.endswith("cls_score") for name in found)
    for name, module in found.items():
        assert not [key for key in model.state_dict() if key == f"{name}.bias"]
        assert module.weight.shape[0] == 2 and 0.005 < module.weight.std() < 0.02
    with torch.no_grad():
        assert "instances" in model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])[0]


# options, words of the error
MISTAKES = [
    ([KEY, -1.0], r"COSINE_SCALE is -1\.0; expected 0\.0 \(a linear layer\) or"),
    ([KEY, float("inf")], "COSINE_SCALE is inf"),
]


@pytest.mark.parametrize(("opts", "words"), MISTAKES)
def test_mistakes(opts: list[Any], words: str, toy: Callable[..., CfgNode]) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model(toy(*opts))


@pytest.fixture(scope="module")
def trained() -> dict[float, Path]:
    return {}


# scale in training, in evaluation, words of the error; none where it is loaded
PAIRS = [
    (0.0, 0.0, ""),
    (20.0, 20.0, ""),
    (20.0, 10.0, r"a cosine classifier \(.*COSINE_SCALE 20\.0\), and the config says .* 10\.0:"),
    (20.0, 0.0, r"a cosine classifier \(.*COSINE_SCALE 20\.0\), and the config says .* 0\.0:"),
    (0.0, 20.0, r"a linear classifier \(.*COSINE_SCALE 0\.0\), and the config says .* 20\.0:"),
]


@pytest.mark.parametrize(("before", "now", "words"), PAIRS)
def test_a_file_of_another_classifier(
    before: float,
    now: float,
    words: str,
    toy: Callable[..., CfgNode],
    train: Callable[..., Any],
    trained: dict[float, Path],
) -> None:
    if before not in trained:
        cfg = toy(KEY, before, "SOLVER.MAX_ITER", 1)
        losses = train(cfg).losses
        assert losses[0]["loss_cls"] > 0
        trained[before] = Path(cfg.OUTPUT_DIR, "model_final.safetensors")
    model = build_model(toy(KEY, now))
    if not words:
        load_trained_model(model, str(trained[before]), ["x"])
        return
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=words):
        load_trained_model(model, str(trained[before]), ["x"])
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in untouched.items())
