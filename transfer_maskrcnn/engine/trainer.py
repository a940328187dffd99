"""DefaultTrainer with weight surgery, checkpoints that know their classes, and clear failures."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn
from torch.utils.data import DataLoader

from transfer_maskrcnn.cli import WORKER_TERMINATED
from transfer_maskrcnn.compat import gradient_clipper, restart_loader, with_gradient_clipping
from transfer_maskrcnn.config import RunSpec, editable
from transfer_maskrcnn.data.loader import build_train_loader, training_records
from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.engine.checkpoint import TransferCheckpointer, load_trained_model
from transfer_maskrcnn.engine.features import hooks_of
from transfer_maskrcnn.engine.hooks.record import (
    EvalHistory,
    StopTraining,
    on_terminal,
    write_drift,
)
from transfer_maskrcnn.engine.manifest import make_metadata, name_trained, note
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import TrainingDivergedError, TransferError
from transfer_maskrcnn.incremental.classes import in_model_classes
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.precision import step_trainer
from transfer_maskrcnn.surgery.hook import WeightSurgeryHook, moved, with_digest
from transfer_maskrcnn.surgery.load import BEST_NAME, FINAL_FILE, LAST_FILE
from transfer_maskrcnn.surgery.names import unwrapped
from transfer_maskrcnn.surgery.read import write_weights

logger = logging.getLogger(__name__)

_NUMPY = re.compile(r"np\.float\d+\((.*?)\)")  # as numpy 2 shows a number


def training_dicts(
    cfg: CfgNode, spec: RunSpec
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images a run trains on, with the model's ``category_id``: as people annotated them, and
    with what ``MODEL.TRANSFER.PSEUDO_LABELS`` adds."""
    own = training_records(cfg)
    if cfg.MODEL.TRANSFER.EXTEND:
        own = in_model_classes(cfg, spec.classes, cfg.DATASETS.TRAIN[0], own)
    if not cfg.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED:
        return own, own
    from transfer_maskrcnn.incremental.pseudo_labels import with_pseudo_labels

    return own, with_pseudo_labels(cfg, spec, own)


def train_loader(cfg: CfgNode, spec: RunSpec) -> DataLoader:
    """The batches that a run trains on."""
    own, labelled = training_dicts(cfg, spec)
    # The rarest pseudo-label is the likeliest to be wrong: how often an image is drawn is decided
    # by what people annotated.
    mapper = CheckedDatasetMapper(cfg, is_train=True)
    return build_train_loader(cfg, labelled, mapper, spec.classes, drawn_by=own)


class TransferTrainer(DefaultTrainer):
    """Detectron2's DefaultTrainer for a config and what :func:`fit_config` found for it.

    ``MODEL.WEIGHTS`` goes through :class:`WeightSurgeryHook` unless ``MODEL.TRANSFER.ENABLED`` is
    False; checkpoints carry the class names; ``evaluation.json`` holds the last evaluation.
    """

    spec: RunSpec
    checkpointer: TransferCheckpointer
    surgery: WeightSurgeryHook
    evaluated_weights: Callable[[], AbstractContextManager[None]]  # inside, what is evaluated
    best_iteration: Callable[[], int | None]  # of TEST.BEST_METRIC; None where nothing is followed
    results: dict[str, Any]  # of the last evaluation in this process

    def __init__(self, cfg: CfgNode, spec: RunSpec | None = None):
        """
        Args:
            cfg: resolved by ``spec``, or any that :func:`fit_config` accepts.
            spec: None: of ``cfg``.
        """
        if spec is None:
            spec = fit_config(cfg)
            cfg = spec.resolve(cfg)
        self.spec = spec
        with warnings.catch_warnings():  # of a CUDA loss scaler, which build_hooks replaces
            warnings.filterwarnings("ignore", message=".*GradScaler")
            super().__init__(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        # DefaultTrainer.__init__ makes its own checkpointer just before it asks for the hooks.
        self.checkpointer = TransferCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            make_metadata(self.cfg, self.spec),
            trust_pickle=self.cfg.MODEL.TRANSFER.TRUST_PICKLE,
            **self.checkpointer.checkpointables,
        )
        cfg = self.cfg
        self._trainer: SimpleTrainer = step_trainer(cfg, self._trainer)
        self.results, self._stopped = {}, False
        self.surgery = WeightSurgeryHook.from_cfg(cfg, self.spec.classes)
        self.evaluated_weights, self.best_iteration = nullcontext, lambda: None
        self.curve = EvalHistory(
            self._figures,
            cfg.OUTPUT_DIR,
            period=cfg.TEST.EVAL_PERIOD,
            iterations=cfg.TEST.EVAL_ITERS,
        )
        return hooks_of(self)

    def stock_hooks(self) -> list[HookBase | None]:
        """detectron2's own hooks, with our evaluation in the place of its."""
        return [self.curve if isinstance(h, EvalHook) else h for h in super().build_hooks()]

    def build_writers(self) -> list[EventWriter]:
        writers: list[EventWriter] = super().build_writers()
        # the bar shows what the lines would
        return [w for w in writers if not (on_terminal() and isinstance(w, CommonMetricPrinter))]

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from OUTPUT_DIR if asked and possible; otherwise start from MODEL.WEIGHTS.

        Raises:
            ConfigError: the checkpoint was trained on other classes.
            WeightFileError: the checkpoint cannot be read.
        """
        checkpointer = self.checkpointer
        source = checkpointer.resume(self.spec.classes, self.optimizer) if resume else None
        if source is not None:
            self.start_iter = self.iter + 1
            self.data_loader.batch_sampler.start = self.start_iter
            restart_loader(self._trainer)
            checkpointer.metadata["transfer"] = moved(source.metadata, self.cfg.MODEL.WEIGHTS)
        elif not self.cfg.MODEL.TRANSFER.ENABLED:
            checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])

    def train(self) -> Any:
        # Detectron2 logs the stack of whatever ends a run; ours say all there is to say.
        logging.getLogger("detectron2.engine.train_loop").addFilter(_not_our_error)
        try:
            return super().train()
        except StopTraining as stop:
            logger.info("%s", stop)
            return None

    def before_train(self) -> None:
        super().before_train()
        if self.surgery.plan is not None:
            transfer = with_digest(self.surgery.plan.summary())
            self.checkpointer.metadata["transfer"] = transfer
            note(self.cfg.OUTPUT_DIR, transfer=transfer)
        if self.cfg.MODEL.TRANSFER.EXTEND:
            from transfer_maskrcnn.incremental.source import note_source

            note_source(self.cfg)

    def end_at(self, iteration: int) -> None:
        """Make ``iteration`` the last one: what follows the last, follows."""
        self._stopped, self.max_iter, self.iter = True, iteration, iteration - 1
        self.checkpointer.save("model_final", iteration=self.iter)

    def after_train(self) -> None:
        done = self._stopped or self.iter >= self.max_iter
        if done:
            with self.evaluated_weights():
                self._write_final(LAST_FILE if self.cfg.TEST.BEST_METRIC else FINAL_FILE)
        super().after_train()
        if done and self.cfg.TEST.BEST_METRIC:
            self._keep_best()

    def _write_final(self, name: str, checkpoint: str = "model_final") -> None:
        """The weights as .safetensors: half the size of a checkpoint, safe to pass on.

        Args:
            checkpoint: of the same weights, but for their average.
        """
        if not comm.is_main_process():
            return
        if name == FINAL_FILE:  # named first: a run is complete with its final weights
            name_trained(self.cfg, self._for_detectron2(checkpoint))
        path = os.path.join(self.cfg.OUTPUT_DIR, name)
        write_weights(path, self.checkpointer.model.state_dict(), self.checkpointer.metadata)
        if name == FINAL_FILE:
            logger.info("Final weights, with their class names: %s", path)
            write_drift(self.cfg.OUTPUT_DIR)

    def _for_detectron2(self, checkpoint: str) -> str:
        """A file of the final weights that its DefaultPredictor reads; or, where its model of them
        would find something else, a name that stands in its error."""
        if self.cfg.MODEL.ROI_BOX_HEAD.COSINE_SCALE or len(self.spec.tasks) > 1:
            return f"{FINAL_FILE} (only transfer_maskrcnn.load_model builds its model)"
        if self.cfg.SOLVER.EMA_DECAY and checkpoint != BEST_NAME:
            checkpoint = "model_average"
            self.checkpointer.save_weights(checkpoint)
        return f"{checkpoint}.pth"

    def _keep_best(self) -> None:
        """Make the weights of the best evaluation the final ones, and the run's results theirs; the
        last weights stay beside them where they are others."""
        best, folder = self.best_iteration(), self.cfg.OUTPUT_DIR
        if best not in (None, self.max_iter):
            logger.info("the best of this run, after iteration %d, is its final model", best)
            weights = os.path.join(folder, f"{BEST_NAME}.pth")
            load_trained_model(unwrapped(self.model), weights, self.spec.classes)
            from transfer_maskrcnn.engine.evaluation import evaluate_model

            self.results = evaluate_model(self.cfg, self.spec, self.model)
            self._write_final(FINAL_FILE, BEST_NAME)
            return
        with self.evaluated_weights():
            self._write_final(FINAL_FILE)
        if comm.is_main_process():
            os.remove(os.path.join(folder, LAST_FILE))

    def is_complete(self) -> bool:
        """Whether nothing is left to do: trained, exported and evaluated to the last iteration."""
        exported = os.path.isfile(os.path.join(self.cfg.OUTPUT_DIR, FINAL_FILE))
        return (
            self.start_iter >= self.max_iter and exported and self.curve.is_written(self.max_iter)
        )

    def _figures(self) -> dict[str, float]:
        """One evaluation: detectron2's results as ``segm/AP``, and the validation losses if wanted.

        Where there are several test sets, a result's name begins with its set's."""
        from transfer_maskrcnn.engine.evaluation import (
            evaluate_model,
            losses_on_test_sets,
            without_single_name,
        )
        from transfer_maskrcnn.engine.hooks.sample_pictures import put_sample_pictures

        with self.evaluated_weights():
            self.results = evaluate_model(self.cfg, self.spec, self.model)
            named = without_single_name(self.cfg, self.results)
            figures: dict[str, float] = flatten_results_dict(named)
            if comm.is_main_process():
                put_sample_pictures(self.storage, self.cfg.OUTPUT_DIR, self.cfg.DATASETS.TEST)
            if self.cfg.TEST.VAL_LOSS:
                figures |= losses_on_test_sets(self.cfg, self.spec, self.model)
        return figures

    def run_step(self) -> None:
        """One iteration.

        Raises:
            TrainingDivergedError: the loss, or what the RPN predicts, is not finite.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            raise TrainingDivergedError(describe_divergence(self, str(error))) from None

    def build_model(self, cfg: CfgNode) -> nn.Module:
        return build_model(cfg, self.spec)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """detectron2's, with ``SOLVER.LR_MULTIPLIERS``, and ready for ``SOLVER.L2_SP``.

        A factor multiplies the learning rate that detectron2 would give a parameter; the schedule
        then multiplies each group's own.

        Args:
            model: not yet wrapped in DistributedDataParallel; frozen parameters are left out.

        Raises:
            ConfigError: ``LR_MULTIPLIERS`` names no such part, or a factor is no number above 0.
        """
        unclipped = editable(cfg)
        unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
        stock: torch.optim.Optimizer = super().build_optimizer(unclipped, model)
        groups, kind = stock.param_groups, type(stock)
        if cfg.SOLVER.LR_MULTIPLIERS or cfg.SOLVER.L2_SP:
            from transfer_maskrcnn.engine.solver import LatePullSGD, with_rates

            if cfg.SOLVER.LR_MULTIPLIERS:
                groups = with_rates(groups, model, cfg.SOLVER.LR_MULTIPLIERS)
            if cfg.SOLVER.L2_SP:
                kind = LatePullSGD
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            kind = _clipping(kind, cfg)
        return kind(groups, **stock.defaults)

    def build_train_loader(self, cfg: CfgNode) -> DataLoader:
        return train_loader(cfg, self.spec)


def _clipping(optimizer_class: type[torch.optim.Optimizer], cfg: CfgNode) -> Any:
    """Detectron2's subclass, but for parameters without a gradient, which its clipping by value
    cannot take: those that a phase has frozen."""
    clip = gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)

    def clip_if_trained(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            clip(parameter)

    return with_gradient_clipping(optimizer_class, per_param_clipper=clip_if_trained)


def _not_our_error(record: logging.LogRecord) -> bool:
    # a FloatingPointError, which detectron2 logs first, run_step turns into one of ours
    ours = (TransferError, StopTraining, FloatingPointError)
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ours) and WORKER_TERMINATED not in str(error)


def describe_divergence(trainer: TransferTrainer, what: str) -> str:
    """Where it happened, the last good state, and the usual remedies.

    Args:
        what: detectron2's own words.
    """
    last = {
        name: round(value, 4)
        for name, (value, _) in trainer.storage.latest().items()
        if "loss" in name
    }
    checkpoint = trainer.checkpointer.get_checkpoint_file() or "there is none yet"
    happened = _NUMPY.sub(r"\1", " ".join(what.split()))
    distils = trainer.cfg.MODEL.TRANSFER.DISTILLATION
    return (
        f"training diverged at iteration {trainer.iter}: {happened}\n"
        f"  learning rate {trainer.optimizer.param_groups[0]['lr']:g}, last finite losses: "
        f"{last or 'none'}\n"
        f"  last good checkpoint: {checkpoint}\n"
        "  usual remedies: a lower SOLVER.BASE_LR (a tenth), a longer SOLVER.WARMUP_ITERS, a "
        "lower SOLVER.CLIP_GRADIENTS.CLIP_VALUE"
        f"{', a lower MODEL.TRANSFER.DISTILLATION' if distils else ''}; from random weights also "
        "MODEL.PIXEL_STD about [58, 58, 58] and a norm other than FrozenBN. Then start without "
        "--resume; with MODEL.WEIGHTS, from that checkpoint"
    )
