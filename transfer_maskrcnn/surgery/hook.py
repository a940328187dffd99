"""Weight surgery inside a training run, for any detectron2 trainer, and without one."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.surgery.apply import apply_plan
from transfer_maskrcnn.surgery.classes import ClassMap, NewClassInit, zoo_config, zoo_dataset
from transfer_maskrcnn.surgery.parts import part_of
from transfer_maskrcnn.surgery.plan import TransferPlan, plan_transfer
from transfer_maskrcnn.surgery.source import SourceWeights, load_source_weights
from transfer_maskrcnn.surgery.target import unwrapped
from transfer_maskrcnn.surgery.translate import TORCHVISION_EXPECTS

PLAN_FILE = "transfer_plan.json"
_TORCHVISION_ROWS = 90  # COCO's category ids 1..90, of which 80 exist

# what the backbones under ImageNetPretrained/ were trained with
_BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "MSRA/": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "FAIR/X-101": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "torchvision/": TORCHVISION_EXPECTS,
}
_INPUT_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    "MODEL.RESNETS.STRIDE_IN_1X1",
)

logger = logging.getLogger(__name__)


def open_source(
    weights: str, *, source_classes: Sequence[str] | None = None, trust_pickle: bool = False
) -> SourceWeights:
    """Reads weights from anywhere that detectron2 reads from, and finds their class names.

    Args:
        weights: a path, ``detectron2://``, ``https://`` ...; "" means no weights.
        source_classes: class names, or the name of one registered dataset, for files that carry
            none. Model-zoo COCO and LVIS files need neither: their address says what they are.
        trust_pickle: see :func:`load_source_weights`.

    Raises:
        WeightFileError: see :func:`load_source_weights`.
    """
    if not weights:
        return SourceWeights({})
    address = weights.partition("?")[0]  # "?matching_heuristics=True" is detectron2's
    try:
        local = PathManager.get_local_path(address)
    except OSError as error:  # no network, no such address
        raise WeightFileError(
            f"{weights}: cannot be fetched ({error}). Fetch it another way and set MODEL.WEIGHTS "
            "to the local file."
        ) from error
    given = source_class_names(source_classes)
    source = load_source_weights(local, classes=given, trust_pickle=trust_pickle)
    classes = source.classes or _known_classes(source, address)
    expects = source.expects or _zoo_expects(address)
    return replace(source, classes=classes, path=weights, expects=expects)


def source_class_names(names: Sequence[str] | None) -> Sequence[str] | None:
    """What ``MODEL.TRANSFER.SOURCE_CLASSES`` says: names, or those of the one dataset it names."""
    if names and len(names) == 1 and names[0] in MetadataCatalog.list():
        return MetadataCatalog.get(names[0]).get("thing_classes") or names
    return names or None


def _known_classes(source: SourceWeights, address: str) -> tuple[str, ...] | None:
    """Class names of well-known files: the model zoo's and torchvision's COCO detector."""
    score = source.tensors.get("roi_heads.box_predictor.cls_score.bias")
    if source.naming == "torchvision" and score is not None and len(score) == _TORCHVISION_ROWS + 1:
        coco = MetadataCatalog.get("coco_2017_val")
        ids = coco.thing_dataset_id_to_contiguous_id
        named = {i: coco.thing_classes[k] for i, k in ids.items()}
        return tuple(named.get(i + 1, "") for i in range(_TORCHVISION_ROWS))
    dataset = zoo_dataset(address)
    if dataset is None or not any(part_of(name) == "predictors" for name in source.tensors):
        return None
    return tuple(MetadataCatalog.get(dataset).thing_classes)


def _zoo_expects(address: str) -> Mapping[str, Any]:
    """Pixels and strides that a file of the model zoo was trained with; {} for other files."""
    _, found, backbone = address.partition("ImageNetPretrained/")
    if found:
        return next((v for k, v in _BACKBONES.items() if backbone.startswith(k)), {})
    config = zoo_config(address)
    try:
        cfg = None if config is None else model_zoo.get_config(f"{config}.yaml")
    except RuntimeError:  # a folder that only looks like the zoo's, or a Python config
        cfg = None
    if cfg is None:
        return {}
    return {key: reduce(getattr, key.split("."), cfg) for key in _INPUT_KEYS}


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
) -> TransferPlan:
    """Loads, plans, checks and applies; logs the plan's table and warnings.

    Args:
        model: any detectron2 model, changed in place.
        weights: see :func:`open_source`.
        keep, target_classes, class_map, new_class_init: see :func:`plan_transfer`.
        strict: raise on problems instead of warning.

    Raises:
        WeightFileError: the file cannot be read safely.
        TransferPlanError: strict, and the plan has problems; the model is unchanged.
    """
    source = open_source(weights, source_classes=source_classes, trust_pickle=trust_pickle)
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
    restored = apply_plan(plan, source, model)
    logger.info("Weight surgery:\n%s", plan.table())
    if restored:
        logger.info(
            "%d tensors had been loaded by position before the surgery and were initialised "
            "again: %s",
            len(restored),
            ", ".join(restored[:6]) + (", ..." if len(restored) > 6 else ""),
        )
    return plan


def _training_classes(trainer: Any) -> list[str] | None:
    """Class names of the first training dataset, where the trainer has a config that names one."""
    cfg = getattr(trainer, "cfg", None)
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
    def from_cfg(cls, cfg: CfgNode) -> "WeightSurgeryHook":
        """Reads ``MODEL.WEIGHTS``, ``MODEL.TRANSFER``, ``OUTPUT_DIR``, and the class names: the
        extended ones where there are any, else those of the first training dataset."""
        transfer = cfg.MODEL.TRANSFER
        train = cfg.DATASETS.TRAIN
        target_classes = list(transfer.CLASSES) or (
            MetadataCatalog.get(train[0]).get("thing_classes") if train else None
        )
        hook = cls(
            cfg.MODEL.WEIGHTS,
            keep=transfer.KEEP,
            strict=transfer.STRICT,
            source_classes=transfer.SOURCE_CLASSES,
            target_classes=target_classes,
            class_map=transfer.CLASS_MAP,
            new_class_init=transfer.NEW_CLASS_INIT or "default",
            trust_pickle=transfer.TRUST_PICKLE,
            output_dir=cfg.OUTPUT_DIR,
        )
        hook._enabled = transfer.ENABLED
        return hook

    def before_train(self) -> None:
        """Raises what :func:`transfer_weights` raises."""
        if not self._enabled:
            logger.info("MODEL.TRANSFER.ENABLED is False: no weight surgery.")
            return
        if self.trainer.start_iter > 0:
            logger.info(
                "Resumed at iteration %d: the weights stay as they are.", self.trainer.start_iter
            )
            return
        if not logging.getLogger("transfer_maskrcnn").hasHandlers():  # as DefaultTrainer does
            setup_logger(self._output_dir, name="transfer_maskrcnn", abbrev_name="transfer")
        if self._arguments["target_classes"] is None:
            self._arguments["target_classes"] = _training_classes(self.trainer)
        model = unwrapped(self.trainer.model)
        self.plan = transfer_weights(model, self._weights, **self._arguments)
        if self._output_dir and comm.is_main_process():
            os.makedirs(self._output_dir, exist_ok=True)
            write_text(Path(self._output_dir) / PLAN_FILE, self.plan.to_json())
