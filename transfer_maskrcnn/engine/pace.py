"""How long a training takes on this machine: measured on its first iterations, in a folder that is
gone afterwards."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import islice, pairwise
from tempfile import TemporaryDirectory

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase

from transfer_maskrcnn.autoconfig.decisions import EVALUATIONS
from transfer_maskrcnn.config import editable
from transfer_maskrcnn.data.loader import training_images
from transfer_maskrcnn.engine.evaluation import build_evaluator, build_test_loader
from transfer_maskrcnn.engine.hooks.record import ProgressBar, StopTraining
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.evaluation.inference import FastInference
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.names import unwrapped

_WARM, _MEASURED, _FEWEST = 3, 10, 3  # iterations
_IMAGES = 8  # that frozen layers, or an evaluation, are measured on
_SHARE = 0.25  # of the time, that evaluations may take
_RESERVE = 0.2  # for checkpoints, the report, and what else the machine does


@dataclass(frozen=True)
class Pace:
    """Seconds of the parts of a training.

    Attributes:
        start: before the first iteration, without what follows.
        step: an iteration.
        view: what frozen layers make of an image, computed once; 0 where nothing is kept.
        evaluation: one of them.
        views: how many images, flipped ones counted, there are to keep.
        batch: images an iteration.
    """

    start: float
    step: float
    view: float
    evaluation: float
    views: int
    batch: int

    def seconds(self, iterations: int, evaluations: int) -> float:
        """Of a whole training, with the reserve."""
        views = min(self.views, iterations * self.batch) * self.view
        evaluated = (evaluations + 1) * self.evaluation  # the best once more
        return (self.start + views + iterations * self.step + evaluated) / (1 - _RESERVE)

    def ending(self, seconds: float) -> float:
        """How many of the last of so many seconds the last evaluations and the report may take."""
        return 2 * self.evaluation + _RESERVE / 2 * seconds

    def fitting(self, seconds: float, most: int) -> tuple[int, int]:
        """How many iterations, at least 1, and evaluations can be had in so many seconds."""
        own = seconds * (1 - _RESERVE) - self.start
        evaluations = min(EVALUATIONS, max(1, int(_SHARE * own / max(self.evaluation, 1e-9)) - 1))
        own -= (evaluations + 1) * self.evaluation
        kept = (own - self.views * self.view) / self.step
        if kept * self.batch <= self.views:  # each image is seen too rarely to be kept
            kept = own / (self.step + self.batch * self.view)
        return max(1, min(most, int(kept))), evaluations


class _Clock(HookBase):
    """Notes when each iteration ends, and ends the training after enough of them, or of time."""

    def __init__(self, longest: float):
        self._longest = longest

    def before_train(self) -> None:
        self.keeps = getattr(unwrapped(self.trainer.model), "recall", None) is not None
        self.times = [time.monotonic()]

    def after_step(self) -> None:
        self.times.append(time.monotonic())
        done = len(self.times) - 1
        slow = done >= _FEWEST and self.times[-1] - self.times[0] > self._longest
        if done >= _WARM + _MEASURED or slow:
            raise StopTraining("measured")


class Deadline(HookBase):
    """Ends a training that would not be done in time, as early stopping does."""

    def __init__(self, ends: float):
        """
        Args:
            ends: after which no iteration begins, of the monotonic clock.
        """
        self._ends = ends

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and time.monotonic() > self._ends:
            if not self.trainer.curve.is_written(done):
                self.trainer.curve.add(done)
            self.trainer.end_at(done)
            raise StopTraining(f"training ends after iteration {done}: the time is over")


class _Probe(TransferTrainer):
    def build_hooks(self) -> list[HookBase]:
        """Without the bar of a training that never gets to its end."""
        return [hook for hook in super().build_hooks() if not isinstance(hook, ProgressBar)]


def measure_pace(cfg: CfgNode, longest: float) -> Pace:
    """
    Args:
        longest: seconds after which a slow machine has shown enough.
        cfg: of the training that is planned; stays as it is.

    Raises:
        TransferError: what would end that training, too.
    """
    images = training_images(cfg)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = editable(cfg)
        own.OUTPUT_DIR, own.DATASETS.TEST = folder, ()
        own.TEST.EVAL_PERIOD, own.TEST.EVAL_ITERS, own.TEST.BEST_METRIC = 0, [], ""
        own.SOLVER.CHECKPOINT_PERIOD = own.SOLVER.MAX_ITER = max(own.SOLVER.MAX_ITER, 10_000)
        if own.MODEL.TRANSFER.FREEZE:  # what is kept of a few images tells what all would take
            own.DATASETS.TRAIN_FRACTION = min(1.0, _IMAGES / images)
        began = time.monotonic()
        spec = fit_config(own)
        own = spec.resolve(own)
        trainer, clock = _Probe(own, spec), _Clock(longest)
        trainer.register_hooks([clock])
        trainer.resume_or_load(resume=False)
        built = time.monotonic()
        trainer.train()
        seen = len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) if cfg.DATASETS.TEST else 0
        evaluation = seen and seen * _seconds_an_image(trainer, cfg.DATASETS.TEST[0])
    flips = 1 + (cfg.INPUT.RANDOM_FLIP != "none")
    filled, views = clock.times[0] - built, flips * training_images(own)
    steps = [b - a for a, b in pairwise(clock.times)]
    del trainer, clock.trainer
    return Pace(
        start=built - began + (0.0 if clock.keeps else filled),
        step=statistics.median(steps[min(_WARM, len(steps) - _FEWEST + 1) :]),
        view=filled / views if clock.keeps else 0.0,
        evaluation=evaluation,
        views=flips * images,
        batch=own.SOLVER.IMS_PER_BATCH,
    )


@torch.no_grad()
def _seconds_an_image(trainer: TransferTrainer, dataset: str) -> float:
    """Of an evaluation, by a model that detects as much as it may."""
    cfg = trainer.cfg
    model = FastInference(trainer.model.eval(), autocast_dtype(cfg))
    evaluator = build_evaluator(cfg, trainer.spec.classes, dataset)
    evaluator.reset()
    times = [time.monotonic()]
    for batch in islice(build_test_loader(cfg, dataset), _IMAGES):
        evaluator.process(batch, model(batch))
        times.append(time.monotonic())
    return statistics.median(b - a for a, b in pairwise(times))
