"""What to say of a training whose loss is no longer finite."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer_maskrcnn.engine.trainer import TransferTrainer

_NUMPY = re.compile(r"np\.float\d+\((.*?)\)")  # as numpy 2 shows a number


def describe_divergence(trainer: TransferTrainer, what: str) -> str:
    """Where it happened, the last good state, and the usual remedies.

    Args:
        what: detectron2's own words.
    """
    rate = trainer._trainer.optimizer.param_groups[0]["lr"]
    last = {
        name: round(value, 4)
        for name, (value, _) in trainer.storage.latest().items()
        if "loss" in name
    }
    checkpoint = "there is none yet"
    if trainer.checkpointer.has_checkpoint():
        checkpoint = trainer.checkpointer.get_checkpoint_file()
    happened = _NUMPY.sub(r"\1", " ".join(what.split()))
    distils = trainer.cfg.MODEL.TRANSFER.DISTILLATION
    distillation = ", a lower MODEL.TRANSFER.DISTILLATION" if distils else ""
    return (
        f"training diverged at iteration {trainer.iter}: {happened}\n"
        f"  learning rate {rate:g}, last finite losses: {last or 'none'}\n"
        f"  last good checkpoint: {checkpoint}\n"
        "  usual remedies: a lower SOLVER.BASE_LR (a tenth), a longer SOLVER.WARMUP_ITERS, a "
        f"lower SOLVER.CLIP_GRADIENTS.CLIP_VALUE{distillation}; from random weights also "
        "MODEL.PIXEL_STD about [58, 58, 58] and a norm other than FrozenBN. Then start without "
        "--resume; with MODEL.WEIGHTS, from that checkpoint"
    )
