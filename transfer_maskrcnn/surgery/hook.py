"""Weight surgery inside a training run, for any detectron2 trainer, and without one."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from transfer_maskrcnn.errors import refuse
from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.surgery.classes import ClassMap, NewClassInit
from transfer_maskrcnn.surgery.load import SourceWeights, load_weights, weights_digest
from transfer_maskrcnn.surgery.names import unwrapped
from transfer_maskrcnn.surgery.plan import TransferPlan, apply_plan, plan_transfer
from transfer_maskrcnn.text import few, first_of, quoted

PLAN_FILE = "transfer_plan.json"
_DIGEST = "digest"  # of the source, in a checkpoint's metadata

logger = logging.getLogger(__name__)


def load_source(cfg: CfgNode) -> SourceWeights:
    """MODEL.WEIGHTS, opened as MODEL.TRANSFER says (SOURCE_CLASSES, TRUST_PICKLE).

    Raises:
        WeightFileError: see :func:`load_weights`.
    """
    return load_weights(
        cfg.MODEL.WEIGHTS,
        classes=source_class_names(cfg.MODEL.TRANSFER.SOURCE_CLASSES),
        trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE,
    )


def load_named_source(cfg: CfgNode) -> SourceWeights:
    """:func:`load_source`, of a file whose classes are known by name, as EXTEND needs it.

    Raises:
        ConfigError: neither file nor config names them, a name stands there twice, or there are
            more or fewer than the classifier has rows.
        WeightFileError: see :func:`load_weights`.
    """
    source, weights = load_source(cfg), cfg.MODEL.WEIGHTS
    names = source.classes or ()
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    score = source.tensors.get("roi_heads.box_predictor.cls_score.weight")
    rows = len(names) if score is None else len(score) - 1
    refuse(
        (
            not names,
            f"MODEL.TRANSFER.EXTEND needs the class names of MODEL.WEIGHTS {weights!r}, which does "
            "not carry them; set MODEL.TRANSFER.SOURCE_CLASSES to its names in order, "
            "or to a registered dataset's name (['coco_2017_val'] for COCO)",
        ),
        (
            twice,
            f"MODEL.WEIGHTS {weights!r} has several classes named {quoted(twice)}, and classes are "
            "told apart by name; set MODEL.TRANSFER.SOURCE_CLASSES with '' for rows without a "
            "class",
        ),
        (
            rows != len(names),
            f"MODEL.WEIGHTS {weights!r} has a classifier of {rows} classes, and "
            f"{len(names)} names ({quoted(names, 4)}); correct MODEL.TRANSFER.SOURCE_CLASSES: one "
            "name a row, in order, '' for a row without a class",
        ),
    )
    return source


def source_class_names(names: Sequence[str] | None) -> Sequence[str] | None:
    """What ``MODEL.TRANSFER.SOURCE_CLASSES`` says: names, or those of the one dataset it names."""
    if names and len(names) == 1 and names[0] in MetadataCatalog.list():
        return MetadataCatalog.get(names[0]).get("thing_classes") or names
    return names or None


def began_with(metadata: Mapping[str, Any] | None, weights: str) -> bool:
    """Whether the run of a checkpoint's ``metadata`` began with the file ``weights``.

    It is the same under another path; at the same path it is, too, when it is gone.
    """
    transfer = (metadata or {}).get("transfer") or {}
    source, digest = transfer.get("source"), transfer.get(_DIGEST)
    if not source or not weights:
        return False
    same_place = os.path.realpath(source) == os.path.realpath(weights)
    return same_place or (bool(digest) and weights_digest(weights) == digest)


def with_digest(transfer: Mapping[str, Any]) -> dict[str, Any]:
    """The transfer's part of the metadata, which then tells its source from any other file."""
    return {**transfer, _DIGEST: weights_digest(transfer["source"])}


def moved(metadata: Mapping[str, Any] | None, weights: str) -> dict[str, Any] | None:
    """The transfer's part of ``metadata``, with the path that its source has now."""
    transfer = (metadata or {}).get("transfer")
    return {**(transfer or {}), "source": weights} if began_with(metadata, weights) else transfer


def plan_of_config(
    cfg: CfgNode, classes: Sequence[str]
) -> tuple[SourceWeights, nn.Module, TransferPlan]:
    """``MODEL.WEIGHTS``, the model of ``cfg`` as built, and what would move from one to the other.

    Args:
        cfg: with ``MODEL.ROI_HEADS.NUM_CLASSES`` set.
        classes: the target's class names.

    Raises:
        WeightFileError: the file cannot be read.
        ConfigError: ``MODEL.TRANSFER.FREEZE`` names no module, or leaves nothing to train.
    """
    model, source = build_model(cfg), load_source(cfg)
    return source, model, plan_transfer(source, model, target_classes=classes, **_asked(cfg))


def _asked(cfg: CfgNode) -> dict[str, Any]:
    """What ``MODEL.TRANSFER`` asks of :func:`plan_transfer`."""
    transfer = cfg.MODEL.TRANSFER
    return {
        "keep": transfer.KEEP,
        "class_map": transfer.CLASS_MAP,
        "new_class_init": transfer.NEW_CLASS_INIT or "default",
    }


def transfer_weights(
    model: nn.Module,
    weights: str,
    *,
    keep: str | Sequence[str] = "all_but_predictors",
    strict: bool = True,
    source_classes: Sequence[str] | None = None,
    target_classes: Sequence[str] | None = None,
    class_map: ClassMap = (),
    new_class_init: NewClassInit = "default",
    trust_pickle: bool = False,
    build: Callable[[], nn.Module] | None = None,
) -> TransferPlan:
    """Moves the weights of a file into a model: loads, plans, checks, applies, and logs the plan::

        model = detectron2.modeling.build_model(cfg)
        plan = transfer_weights(
            model, "model_final.pth", keep="class_rows", target_classes=["cat", "owl"]
        )
        print(plan.table())

    Args:
        model: any detectron2 model, changed in place.
        weights: a file, the OUTPUT_DIR of a run or an address, see :func:`load_weights`.
        keep: which parts come from the file: a preset (``random_init``, ``backbone``,
            ``backbone_fpn``, ``backbone_fpn_rpn``, ``all_but_predictors``, ``class_rows``) or
            module prefixes.
        strict: raise on problems instead of warning.
        source_classes: class names, or the name of one registered dataset, for files without.
        target_classes: the model's class names, in order; ``class_rows`` needs them.
        class_map, new_class_init: with ``class_rows``, see :func:`plan_transfer`.
        trust_pickle: see :func:`load_weights`; it runs code from the file.
        build: makes a fresh model, where the file may have been loaded into ``model`` before.

    Returns:
        what was done, tensor by tensor.

    Raises:
        WeightFileError: the file cannot be read safely.
        TransferPlanError: strict, and the plan has problems, or the file had been loaded before and
            there is no ``build``; the model is unchanged.
    """
    source = load_weights(
        weights, classes=source_class_names(source_classes), trust_pickle=trust_pickle
    )
    plan = plan_transfer(
        source,
        model,
        keep=keep,
        target_classes=target_classes,
        class_map=class_map,
        new_class_init=new_class_init,
    )
    for warning in plan.check(strict):
        logger.warning(warning)
    restored = apply_plan(plan, source, model, build)
    logger.info("Weight surgery:\n%s", plan.table())
    if restored:
        logger.info(
            "%d tensors had been loaded by position before the surgery and were initialised "
            "again: %s",
            *(len(restored), few(restored, 6)),
        )
    return plan


def _training_classes(cfg: Any) -> list[str] | None:
    """Class names of the first training dataset, where there is a config that names one."""
    train = cfg.DATASETS.TRAIN if isinstance(cfg, CfgNode) else ()
    return MetadataCatalog.get(train[0]).get("thing_classes") if train else None


class WeightSurgeryHook(HookBase):
    """Moves weights into ``trainer.model`` before the first iteration.

    Works in any detectron2 trainer::

        trainer.register_hooks([WeightSurgeryHook("model_final.pth", output_dir="output")])

    What moved is logged, by detectron2's ``setup_logger`` where nobody set up another logger. It
    does not matter whether ``resume_or_load`` has loaded the same file before: what it copied by
    position is initialised again. A resumed run is left untouched.

    Attributes:
        plan: what was done, after ``before_train``; None for a resumed run.
    """

    def __init__(
        self,
        weights: str,
        *,
        keep: str | Sequence[str] = "all_but_predictors",
        strict: bool = True,
        source_classes: Sequence[str] | None = None,
        target_classes: Sequence[str] | None = None,
        class_map: ClassMap = (),
        new_class_init: NewClassInit = "default",
        trust_pickle: bool = False,
        output_dir: str | None = None,
    ):
        """
        Args:
            weights, ..., trust_pickle: see :func:`transfer_weights`.
            output_dir: where the main process writes ``transfer_plan.json``; None writes nothing.
        """
        self.plan: TransferPlan | None = None
        self._enabled = True
        self._output_dir = output_dir
        self._weights = weights
        self._arguments: dict[str, Any] = {
            "keep": keep,
            "strict": strict,
            "source_classes": source_classes,
            "target_classes": target_classes,
            "class_map": class_map,
            "new_class_init": new_class_init,
            "trust_pickle": trust_pickle,
        }

    @classmethod
    def from_cfg(cls, cfg: CfgNode, classes: Sequence[str] | None = None) -> WeightSurgeryHook:
        """Reads ``MODEL.WEIGHTS``, ``MODEL.TRANSFER``, ``OUTPUT_DIR``.

        Args:
            classes: the model's; None: those of the first training dataset.
        """
        transfer = cfg.MODEL.TRANSFER
        hook = cls(
            cfg.MODEL.WEIGHTS,
            strict=transfer.STRICT,
            source_classes=transfer.SOURCE_CLASSES,
            target_classes=classes or _training_classes(cfg),
            trust_pickle=transfer.TRUST_PICKLE,
            output_dir=cfg.OUTPUT_DIR,
            **_asked(cfg),
        )
        hook._enabled = transfer.ENABLED
        return hook

    def before_train(self) -> None:
        """Raises what :func:`transfer_weights` raises."""
        start = self.trainer.start_iter
        stays = first_of(
            (not self._enabled, "MODEL.TRANSFER.ENABLED is False: no weight surgery."),
            (start > 0, f"Resumed at iteration {start}: the weights stay as they are."),
            (True, ""),
        )
        if stays:
            logger.info(stays)
            return
        if not logging.getLogger("transfer_maskrcnn").hasHandlers():  # as DefaultTrainer does
            setup_logger(self._output_dir, name="transfer_maskrcnn", abbrev_name="transfer")
        trainer: Any = self.trainer
        cfg = getattr(trainer, "cfg", None)
        if self._arguments["target_classes"] is None:
            self._arguments["target_classes"] = _training_classes(cfg)
        build = partial(trainer.build_model, cfg) if hasattr(trainer, "build_model") else None
        model = unwrapped(trainer.model)
        self.plan = transfer_weights(model, self._weights, build=build, **self._arguments)
        if self._output_dir and comm.is_main_process():
            os.makedirs(self._output_dir, exist_ok=True)
            write_text(Path(self._output_dir) / PLAN_FILE, self.plan.to_json())
