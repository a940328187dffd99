"""The private names of detectron2 and torch that the project cannot do without, and which versions
of detectron2 it works with.

Written against the release 0.6, and its main branch, which calls itself 0.6, too; tried with
``TRIED``. Everything else the project adds to detectron2 are subclasses in its registries.

::

    from transfer_maskrcnn.compat import train_loader_parts
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from transfer_maskrcnn.errors import TransferError

OLDEST = (0, 6)
TRIED = "0.7.2"

#: name here -> module, name there
PRIVATE = {
    "train_loader_parts": ("detectron2.data.build", "_train_loader_from_config"),
    "gradient_clipper": ("detectron2.solver.build", "_create_gradient_clipper"),
    "with_gradient_clipping": (
        "detectron2.solver.build",
        "_generate_optimizer_class_with_gradient_clipping",
    ),
    "evaluate_keypoints": (
        "detectron2.evaluation.coco_evaluation",
        "_evaluate_predictions_on_coco",
    ),
    "BatchNorm": ("torch.nn.modules.batchnorm", "_BatchNorm"),
    "Dropout": ("torch.nn.modules.dropout", "_DropoutNd"),
}


def __getattr__(name: str) -> Any:
    """One of ``PRIVATE``, imported when it is first asked for.

    Raises:
        TransferError: this version of detectron2, or of torch, does not have it.
    """
    if name not in PRIVATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_detectron2()
    module, private = PRIVATE[name]
    try:
        return getattr(import_module(module), private)
    except (ImportError, AttributeError):
        raise TransferError(
            f"detectron2 {_version()} has no {module}.{private}, which transfer_maskrcnn needs; it "
            f"was tried with detectron2 {TRIED}: install that"
        ) from None


def check_detectron2() -> None:
    """Raise TransferError where detectron2 is older than the project can work with."""
    version = _version()
    numbers = [int(part) if part.isdigit() else 0 for part in version.partition("+")[0].split(".")]
    if tuple(numbers[:2]) < OLDEST:
        raise TransferError(
            f"detectron2 {version} is too old: transfer_maskrcnn needs "
            f"{'.'.join(map(str, OLDEST))} or newer, and was tried with {TRIED}; install that"
        )


def _version() -> str:
    return str(getattr(import_module("detectron2"), "__version__", "0"))


def restart_loader(trainer: Any) -> None:
    """Have a SimpleTrainer begin to load where its loader now says.

    detectron2 0.6 opens the loader as soon as there is a trainer; newer ones at the first step.
    """
    if "_data_loader_iter" in vars(trainer):
        trainer._data_loader_iter = iter(trainer.data_loader)
