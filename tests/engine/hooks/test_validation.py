"""Losses on a validation set leave no trace in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from transfer_maskrcnn.engine.evaluation import validation_losses


class Detector(nn.Module):
    """Gives two losses in training mode, one of them random; has every kind of state to disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.BatchNorm1d(3).eval()
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        assert self.training and not self.norm.training and not self.dropout.training
        assert not torch.is_grad_enabled()
        x = torch.stack([record["x"] for record in batch])
        value = self.dropout(self.norm(x)).abs().mean()
        return {"loss_cls": value, "loss_mask": torch.rand(())}


def batches(count: int = 3) -> list[list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(1)
    return [[{"x": torch.randn(3, generator=generator)} for _ in range(2)] for _ in range(count)]


def test_losses_are_means_and_their_sum() -> None:
    model = Detector()
    losses = validation_losses(model, batches())
    scale = (1 + model.norm.eps) ** 0.5
    expected = torch.stack([r["x"] for b in batches() for r in b]).abs().mean() / scale
    assert losses["val_loss_cls"] == pytest.approx(float(expected), rel=1e-5)
    assert losses["val_loss"] == pytest.approx(losses["val_loss_cls"] + losses["val_loss_mask"])
    assert validation_losses(model, []) == {}, "nothing was measured"


def test_nothing_of_training_is_touched() -> None:
    model = Detector().train()
    model.frozen.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    first = validation_losses(model, batches())
    assert torch.equal(torch.rand(3), expected), "the generator of training"
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert validation_losses(model, batches()) == first, "its own random choices are fixed"


def test_an_error_restores_the_modes() -> None:
    model = Detector().eval()
    with pytest.raises(KeyError):
        validation_losses(model, [[{}]])
    assert not any(m.training for m in model.modules())
