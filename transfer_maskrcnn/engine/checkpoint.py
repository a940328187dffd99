"""Checkpoints that know their classes, written whole or not at all, and checked when read."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from transfer_maskrcnn.errors import CheckpointError, ConfigError, TrainingDivergedError
from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.modeling.cosine import check_same_classifier
from transfer_maskrcnn.modeling.extended_scores import generations_of, score_by_generation
from transfer_maskrcnn.surgery.source import (
    METADATA_KEY,
    UNTRAINED_KEY,
    SourceWeights,
    load_source_weights,
)

logger = logging.getLogger(__name__)

# In a model's state, but not learnt: absent from older files, and set from the config anyway.
_NOT_LEARNT = ("pixel_mean", "pixel_std", "num_batches_tracked", "cell_anchors")


class TransferCheckpointer(DetectionCheckpointer):
    """Stock DetectionCheckpointer, plus a metadata (class names, transfer) inside every file.

    Stock detectron2 loads these files: the metadata is one more key beside ``model``.
    """

    def __init__(self, model: nn.Module, save_dir: str, metadata: dict[str, Any], **kwargs: Any):
        super().__init__(model, save_dir, **kwargs)
        self.metadata = metadata

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth``; a kill or a full disk leaves the file before intact.

        Raises:
            TrainingDivergedError: a weight is not finite; nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        self._write(name, {**states, **kwargs})
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth`` with weights, metadata and ``kwargs``, but nothing to resume.

        ``last_checkpoint`` stays as it is, so that ``--resume`` does not go on from this file.

        Raises:
            TrainingDivergedError: a weight is not finite; nothing is written.
        """
        if self.save_dir and self.save_to_disk:
            self._write(name, kwargs)

    def _write(self, name: str, rest: Mapping[str, Any]) -> None:
        model = self.model.state_dict()
        check_finite(model)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_path(path) as temporary:
                torch.save({"model": model, **rest, METADATA_KEY: self.metadata}, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise CheckpointError(
                f"cannot write {path}: {' '.join(str(error).split())}. Is the disk full? The "
                "checkpoints before it are intact: --resume goes on from the last"
            ) from None

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_path(os.path.join(self.save_dir, "last_checkpoint")) as temporary:
            temporary.write_text(last_filename_basename)


def check_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Raise TrainingDivergedError where a tensor of ``state`` holds NaN or infinity."""
    broken = [
        key
        for key, tensor in state.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise TrainingDivergedError(
            f"{len(broken)} weights hold NaN or infinity (first: {broken[0]}); not saved, so the "
            "last good checkpoint stays. Lower SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS"
        )


def check_classes(metadata: Mapping[str, Any] | None, path: str, classes: Sequence[str]) -> None:
    """Compare the class names in a checkpoint with those of the dataset.

    Raises:
        ConfigError: they differ in names or order; both lists are shown.
    """
    trained = list((metadata or {}).get("thing_classes", ()))
    if not trained:
        logger.warning(
            "%s carries no class names; its %d classes are taken to be, in this order: %s",
            *(path, len(classes), ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")),
        )
        return
    if trained != list(classes):
        raise ConfigError(
            f"{path} was trained on other classes than the dataset has:\n"
            f"  checkpoint: {trained}\n  dataset:    {list(classes)}\n{_remedy(metadata or {})}"
        )


def _remedy(metadata: Mapping[str, Any]) -> str:
    if (metadata.get("config") or {}).get("MODEL.TRANSFER.EXTEND"):
        return (
            "It extends the classes of another model: set MODEL.TRANSFER.KEEP class_rows and "
            "MODEL.TRANSFER.EXTEND True, or use its run's own config.yaml, to evaluate it on sets "
            "of some of its classes"
        )
    return (
        "Use the dataset it was trained on, or train again from it (without --eval-only and "
        "--resume)"
    )


def load_trained_model(model: nn.Module, path: str, classes: Sequence[str]) -> None:
    """Load a finished model for evaluation or prediction, whole or not at all.

    An extended one scores its classes as it did in its run.

    Raises:
        ConfigError: the file lacks weights that the model needs, or has other classes.
        WeightFileError: the file cannot be read.
    """
    if not path:
        raise ConfigError("there is no model to evaluate: MODEL.WEIGHTS is empty")
    source = open_trained(model, path, classes)
    state = model.state_dict()
    model.load_state_dict({k: source.tensors[k] for k in state if k in source.tensors}, False)
    score_by_generation(model, generations_of(source.metadata))
    logger.info("loaded %s (%d tensors)", path, len(state))


def open_trained(model: nn.Module, path: str, classes: Sequence[str]) -> SourceWeights:
    """The file of a trained model, after comparing it with ``model`` and ``classes``.

    Raises:
        ConfigError: it lacks weights that the model needs, was never trained, or has other classes
            or another classifier (``COSINE_SCALE``).
        WeightFileError: it cannot be read.
    """
    source = load_source_weights(path)
    check_classes(source.metadata, path, classes)
    check_same_classifier(model, source)
    state = model.state_dict()
    unusable = [
        key
        for key, tensor in state.items()
        if not key.endswith(_NOT_LEARNT)
        and (key not in source.tensors or source.tensors[key].shape != tensor.shape)
    ]
    if unusable:
        raise ConfigError(
            f"{path} is not a trained model for this config: {len(unusable)} of {len(state)} "
            f"tensors are missing or have another shape (first: {unusable[0]}). "
            "It may be a starting point for training, or of another architecture. To evaluate a "
            "finished run, leave MODEL.WEIGHTS out and keep its OUTPUT_DIR, or name its "
            "model_final.pth"
        )
    untrained = (source.metadata or {}).get(UNTRAINED_KEY)
    if untrained:
        raise ConfigError(
            f"{path} is a starting point: {len(untrained)} of its tensors were never trained "
            f"(first: {untrained[0]}). Train from it first"
        )
    return source
