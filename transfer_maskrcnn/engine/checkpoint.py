"""Checkpoints that know their classes, written whole or not at all, and checked when read."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from transfer_maskrcnn.errors import CheckpointError, ConfigError, TrainingDivergedError
from transfer_maskrcnn.files import atomic_path, write_text
from transfer_maskrcnn.modeling.build import check_same_classifier, score_by_task, tasks_of
from transfer_maskrcnn.surgery.load import (
    UNTRAINED_KEY,
    SourceWeights,
    last_checkpoint,
    load_checkpoint,
    load_weights,
)
from transfer_maskrcnn.surgery.names import align
from transfer_maskrcnn.surgery.read import METADATA_KEY
from transfer_maskrcnn.text import few

logger = logging.getLogger(__name__)

# In a model's state, but not learnt: absent from older files, and set from the config anyway.
_NOT_LEARNT = ("pixel_mean", "pixel_std", "num_batches_tracked", "cell_anchors")


class TransferCheckpointer(DetectionCheckpointer):
    """Stock DetectionCheckpointer, plus metadata (class names, transfer) inside every file.

    Stock detectron2 loads these files: the metadata is one more key beside ``model``. What this one
    loads, it takes from :func:`load_weights` and :func:`load_checkpoint`, and from nothing else.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        metadata: dict[str, Any],
        *,
        trust_pickle: bool = False,
        **kwargs: Any,
    ):
        super().__init__(model, save_dir, **kwargs)
        self.metadata = metadata
        self._trust_pickle = trust_pickle

    def get_checkpoint_file(self) -> str:
        """The checkpoint in ``save_dir`` to go on from.

        Raises:
            WeightFileError: ``last_checkpoint`` names no file beside it.
        """
        return str(last_checkpoint(self.save_dir) or "")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Weights and, where ``checkpointables`` is None, the states that are tracked here.

        Returns what is left over. Weights that have no place are named in the log, as usual.

        Raises:
            WeightFileError: the file cannot be read safely.
        """
        if not path:
            return {}
        if checkpointables is None:
            return self._load(*load_checkpoint(path, trust_pickle=self._trust_pickle))
        return self._load(load_weights(path, trust_pickle=self._trust_pickle), {})

    def resume(
        self, classes: Sequence[str], optimizer: torch.optim.Optimizer
    ) -> SourceWeights | None:
        """Go on from the last checkpoint in ``save_dir``: checked, then loaded, from one reading.

        Returns the weights it went on from; None, and nothing is done, where there is none.

        Raises:
            ConfigError: it is gone, or of other classes, another model or another optimizer.
            WeightFileError: it cannot be read safely.
        """
        path = self.get_checkpoint_file()
        if not path:
            return None
        if not os.path.isfile(path):
            raise ConfigError(
                f"{self.save_dir}/last_checkpoint names {path}, which is gone. Write the name of "
                "another checkpoint there, or start again without --resume"
            )
        source, states = load_checkpoint(path, trust_pickle=self._trust_pickle)
        check_trained(self.model, source, classes)
        check_optimizer(optimizer, states, path)
        self._load(source, states)
        return source

    def _load(self, source: SourceWeights, states: dict[str, Any]) -> dict[str, Any]:
        self.logger.info("Loading %s", source.path)
        partner, _ = align(source.tensors, self.model.state_dict())
        names = {old: new for new, old in partner.items()}
        tensors = {names.get(name, name): tensor for name, tensor in source.tensors.items()}
        self._log_incompatible_keys(self._load_model({"model": tensors}))
        for key in self.checkpointables.keys() & states.keys():
            self.checkpointables[key].load_state_dict(states.pop(key))
        return states

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth``; a kill or a full disk leaves the file before intact.

        Raises:
            TrainingDivergedError: a weight is not finite; nothing is written.
        """
        if self.save_dir and self.save_to_disk:
            states = {key: item.state_dict() for key, item in self.checkpointables.items()}
            self.save_weights(name, **states, **kwargs)
            self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth`` with weights, metadata and ``kwargs``, but nothing to resume.

        ``last_checkpoint`` stays as it is, so that ``--resume`` does not go on from this file.

        Raises:
            TrainingDivergedError: a weight is not finite; nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        model = self.model.state_dict()
        check_finite(model)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_path(path) as temporary:
                torch.save({"model": model, **kwargs, METADATA_KEY: self.metadata}, temporary)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror}. The checkpoints before it are intact: "
                "--resume goes on from the last"
            ) from None

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """What is older than the last is not needed any more: its run goes on from here."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)
        for older in Path(self.save_dir).glob("model_[0-9]*.pth"):
            if older.name != last_filename_basename:
                older.unlink(missing_ok=True)


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


def check_classes(source: SourceWeights, classes: Sequence[str]) -> None:
    """Compare the class names of a trained file with those of the dataset.

    Raises:
        ConfigError: they differ in names or order; both lists are shown.
    """
    trained, path = list(source.classes or ()), source.path
    if not trained:
        logger.warning(
            "%s carries no class names; its %d classes are taken to be, in this order: %s",
            *(path, len(classes), few(classes, 8)),
        )
    elif trained != list(classes):
        extended = ((source.metadata or {}).get("config") or {}).get("MODEL.TRANSFER.EXTEND")
        raise ConfigError(
            f"{path} was trained on other classes than the dataset has:\n"
            f"  checkpoint: {trained}\n  dataset:    {list(classes)}\n"
            f"{_EXTENDED if extended else _OTHER_DATASET}"
        )


_EXTENDED = (
    "It extends the classes of another model: set MODEL.TRANSFER.KEEP class_rows and "
    "MODEL.TRANSFER.EXTEND True, or use its run's own config.yaml, to evaluate it on sets of some "
    "of its classes"
)
_OTHER_DATASET = (
    "Use the dataset it was trained on, or train again from it (without --eval-only and --resume)"
)


def load_trained_model(
    model: nn.Module, path: str, classes: Sequence[str], *, trust_pickle: bool = False
) -> None:
    """Load a finished model for evaluation or prediction, whole or not at all.

    An extended one scores its classes as it did in its run.

    Args:
        path: an address of :func:`load_weights`.
        trust_pickle: see there.

    Raises:
        ConfigError: the file lacks weights that the model needs, or has other classes.
        WeightFileError: the file cannot be read.
    """
    if not path:
        raise ConfigError("there is no model to evaluate: MODEL.WEIGHTS is empty")
    source = load_weights(path, trust_pickle=trust_pickle)
    check_trained(model, source, classes)
    state = model.state_dict()
    model.load_state_dict({k: source.tensors[k] for k in state if k in source.tensors}, False)
    score_by_task(model, tasks_of(source.metadata))
    logger.info("loaded %s (%d tensors)", path, len(state))


def check_trained(model: nn.Module, source: SourceWeights, classes: Sequence[str]) -> None:
    """Compare the file of a trained model with ``model`` and ``classes``.

    Raises:
        ConfigError: it lacks weights that the model needs, was never trained, or has other classes
            or another classifier (``COSINE_SCALE``).
    """
    untrained = (source.metadata or {}).get(UNTRAINED_KEY)
    if untrained:
        raise ConfigError(
            f"{source.path} is a starting point: {len(untrained)} of its tensors were never "
            f"trained (first: {untrained[0]}). Train from it first"
        )
    check_classes(source, classes)
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
            f"{source.path} is not a trained model for this config: {len(unusable)} of "
            f"{len(state)} tensors are missing or have another shape (first: {unusable[0]}). "
            "It may be a starting point for training, or of another architecture. To evaluate a "
            "finished run, leave MODEL.WEIGHTS out and keep its OUTPUT_DIR, or name its "
            "model_final.pth"
        )


def check_optimizer(optimizer: torch.optim.Optimizer, states: Mapping[str, Any], path: str) -> None:
    """That the optimizer's state in a checkpoint is of an optimizer with the same settings.

    torch takes learning rate, momentum and weight decay from a state that it loads, whatever the
    config says. A run of this project is compared by its config; this finds the others.

    Raises:
        ConfigError: it is of another one.
    """
    saved = ((states.get("trainer") or {}).get("_trainer") or {}).get("optimizer")
    if not saved:
        return
    before, now = (_settings(groups) for groups in (saved["param_groups"], optimizer.param_groups))
    changed = [
        f"  {key}: {', '.join(map(str, before[key]))} before, {', '.join(map(str, now[key]))} now"
        for key in before
        if before[key] != now[key]
    ]
    if changed:
        raise ConfigError(
            f"--resume: {path} is of a run with another optimizer:\n" + "\n".join(changed) + "\n"
            "Go on with the values before (a learning rate is SOLVER.BASE_LR, as long as "
            "LR_MULTIPLIERS is empty); or start a new run without --resume, with MODEL.WEIGHTS "
            f"{path}"
        )


def _settings(groups: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What the groups of parameters are trained with; the schedule multiplies the initial rate."""
    return {
        "learning rate": [group.get("initial_lr", group["lr"]) for group in groups],
        **{key: [g.get(key) for g in groups] for key in ("weight_decay", "momentum", "nesterov")},
        "parameters": [len(group["params"]) for group in groups],
    }
