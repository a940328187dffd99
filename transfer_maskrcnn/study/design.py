"""What a study runs: every variant on every share of the images with every seed, all else equal.

A variant is a starting point: a few settings on top of one config.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.data.registry import register_catalogs
from transfer_maskrcnn.engine.setup import check_dataset, fit_config
from transfer_maskrcnn.errors import ConfigError, nearest, refuse
from transfer_maskrcnn.modeling.freezing import ALL_BUT_NOVEL_ROWS
from transfer_maskrcnn.surgery.hook import plan_of_config
from transfer_maskrcnn.surgery.names import PRESETS
from transfer_maskrcnn.text import quoted

FAIR = "from_scratch"
VARIANT_NAMES = (*PRESETS, FAIR)
GROUPS = 32  # of detectron2's "GN"
IMAGENET_STD = [57.375, 57.12, 58.395]  # of the three channels, of pixels from 0 to 255
LEAST_WARMUP = 0.1  # of the iterations
# what spares weights that are worth it, and would only hinder random ones
_NO_CARE_FOR_WEIGHTS = (
    *("MODEL.TRANSFER.FREEZE", "", "SOLVER.FREEZE_SCHEDULE", "[]", "SOLVER.LR_MULTIPLIERS", "[]"),
    *("SOLVER.L2_SP", "0.0"),
)

CURVE_SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the iterations, beside the last
SET_BY_THE_STUDY = (
    *("MODEL.TRANSFER.KEEP", "MODEL.TRANSFER.STRICT", "DATASETS.TRAIN_FRACTION"),
    *("SEED", "OUTPUT_DIR"),
)
CHECKPOINTS = 8  # a run: what a kill costs at most is an eighth of it


@dataclass(frozen=True)
class Variant:
    """One starting point.

    Attributes:
        name: ``backbone``, ``from_scratch``; with a file of its own ``backbone@imagenet.pkl``,
            wherever that file lies.
        text: as the user wrote it, with the file's folder.
        keep: the preset of MODEL.TRANSFER.KEEP.
        weights: the weight file; "" for none.
        settings: ``KEY VALUE`` pairs in which this variant differs from the config.
    """

    name: str
    text: str
    keep: str
    weights: str
    settings: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The name as part of a folder's name."""
        return re.sub(r"[^\w.-]", "-", self.name.replace("@", "-at-"))


def parse_variant(text: str, cfg: CfgNode) -> Variant:
    """``PRESET``, ``PRESET@WEIGHTS`` or ``from_scratch`` for the config ``cfg``.

    Raises:
        ConfigError: no such preset, a file where none is taken, or none where one is needed.
    """
    preset, at, file = (part.strip() for part in text.partition("@"))
    random = preset in ("random_init", FAIR)
    keep, weights = ("random_init", "") if random else (preset, file or cfg.MODEL.WEIGHTS)
    refuse(
        (
            preset not in VARIANT_NAMES,
            f"--variants: there is no variant {preset!r}; expected {', '.join(VARIANT_NAMES)}, "
            "those that take weights also as backbone@imagenet.pkl"
            f"{nearest(preset, VARIANT_NAMES)}",
        ),
        (
            random and at,
            f"--variants {text}: {preset} trains from random weights and takes no file",
        ),
        (
            not (random or weights),
            f"--variants {text}: it needs weights; set MODEL.WEIGHTS in the config, or write "
            f"{preset}@FILE",
        ),
    )
    settings = ["MODEL.WEIGHTS", weights, "MODEL.TRANSFER.KEEP", keep]
    if keep != "class_rows":  # the plan refuses these where they would mean nothing
        settings += ["MODEL.TRANSFER.CLASS_MAP", "[]", "MODEL.TRANSFER.NEW_CLASS_INIT", "default"]
        settings += _without_extension(cfg) if cfg.MODEL.TRANSFER.EXTEND else []
    if random:
        as_it_is = ["MODEL.TRANSFER.STRICT", "False", "SOLVER.L2_SP", "0.0"]
        settings += _fair_settings(cfg) if preset == FAIR else as_it_is
    name = f"{preset}@{file.rpartition('/')[2]}" if at else preset
    return Variant(name, text.strip(), keep, weights, tuple(settings))


def _without_extension(cfg: CfgNode) -> list[str]:
    """For a model of the novel classes alone: EXTEND off, and what is meant for base classes."""
    settings = [
        *("MODEL.TRANSFER.EXTEND", "False", "MODEL.TRANSFER.DISTILLATION", "0.0"),
        *("MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", "False", "DATASETS.TEST_BASE", "()"),
    ]
    if cfg.MODEL.TRANSFER.FREEZE == ALL_BUT_NOVEL_ROWS:
        settings += ["MODEL.TRANSFER.FREEZE", ""]
    phases = [list(phase) for phase in cfg.SOLVER.FREEZE_SCHEDULE]
    own = [[n, "" if parts == ALL_BUT_NOVEL_ROWS else parts] for n, parts in phases]
    return settings if own == phases else [*settings, "SOLVER.FREEZE_SCHEDULE", str(own)]


def _fair_settings(cfg: CfgNode) -> list[str]:
    """Training from random weights as it is done by those who know how (arXiv:1811.08883).

    All layers learn from the first iteration, at one rate; FrozenBN, which cannot, gives way to
    GroupNorm, or to BatchNorm where a layer has too few channels for 32 groups; pixels are scaled
    to unit variance; the warm-up is no shorter than a tenth of training. What the config does
    already stays, the learning rate too.
    """
    settings, resnet = ["MODEL.BACKBONE.FREEZE_AT", "0", *_NO_CARE_FOR_WEIGHTS], cfg.MODEL.RESNETS
    if resnet.NORM == "FrozenBN":
        narrow = resnet.NUM_GROUPS * resnet.WIDTH_PER_GROUP
        channels = (resnet.STEM_OUT_CHANNELS, resnet.RES2_OUT_CHANNELS, cfg.MODEL.FPN.OUT_CHANNELS)
        norm = "BN" if any(number % GROUPS for number in (narrow, *channels)) else "GN"
        settings += ["MODEL.RESNETS.NORM", norm]
        settings += [] if cfg.MODEL.FPN.NORM else ["MODEL.FPN.NORM", norm]
    if max(cfg.MODEL.PIXEL_STD) <= 1:
        settings += ["MODEL.PIXEL_STD", str(IMAGENET_STD)]
    warmup = max(cfg.SOLVER.WARMUP_ITERS, round(LEAST_WARMUP * cfg.SOLVER.MAX_ITER))
    return [*settings, "SOLVER.WARMUP_ITERS", str(warmup)]


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    variant: Variant
    fraction: float
    seed: int

    @property
    def folder(self) -> str:
        """Where it lies below the study's folder."""
        return f"runs/{self.variant.folder}_f{self.fraction:g}_s{self.seed}"

    @property
    def title(self) -> str:
        share = "" if self.fraction == 1 else f", {self.fraction:.0%} of the images"
        return f"{self.variant.name}{share}, seed {self.seed}"


@dataclass(frozen=True)
class Design:
    """A study: one config, what is varied, and how it is measured."""

    config_file: str
    options: tuple[str, ...]
    variants: tuple[Variant, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[Run]:
        """Seed by seed, so that a study that is stopped early has compared something."""
        return [
            Run(variant, fraction, seed)
            for seed in self.seeds
            for fraction in self.fractions
            for variant in self.variants
        ]

    def first_run(self, variant: Variant, fraction: float | None = None) -> Run:
        """Of a variant: on all images that there are, unless a ``fraction`` of them is named."""
        return Run(variant, fraction or self.fractions[-1], self.seeds[0])

    def arguments(self, run: Run, output_dir: Path) -> list[str]:
        """What the command ``train`` is called with for ``run``."""
        return [
            *("--config-file", self.config_file, *self.options, *self._measured),
            *run.variant.settings,
            *("DATASETS.TRAIN_FRACTION", str(run.fraction), "SEED", str(run.seed)),
            *("OUTPUT_DIR", str(output_dir / run.folder)),
        ]

    def fitted(self, run: Run, output_dir: Path) -> tuple[CfgNode, RunSpec]:
        """The config of ``run``, and what it leaves to its datasets."""
        cfg = load_config(self.config_file, self.arguments(run, output_dir)[2:])
        spec = fit_config(cfg)
        return spec.resolve(cfg), spec

    @cached_property
    def _measured(self) -> list[str]:
        """Curve points and checkpoints, unless the config says when to evaluate.

        The last weights count: the best of a curve are chosen on the images that judge them.
        """
        cfg = load_config(self.config_file, self.options)
        last = cfg.SOLVER.MAX_ITER
        period = max(1, min(cfg.SOLVER.CHECKPOINT_PERIOD, last // CHECKPOINTS))
        points = {0, *cfg.TEST.EVAL_ITERS}  # without the start, no curve tells what weights bring
        if not (cfg.TEST.EVAL_ITERS or cfg.TEST.EVAL_PERIOD):
            points |= {round(share * last) for share in CURVE_SHARES}
        return [
            *("SOLVER.CHECKPOINT_PERIOD", str(period)),
            *("TEST.EVAL_ITERS", str(sorted(points)), "TEST.BEST_METRIC", ""),
        ]


def make_design(
    config_file: str,
    options: Sequence[str],
    variants: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
) -> Design:
    """A study of ``seeds`` seeds, 0 and on, for each variant and fraction.

    Raises:
        ConfigError: what does not fit, before anything is trained.
    """
    cfg = load_config(config_file, options)
    train, test = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    own = next((key for key in options[::2] if key in SET_BY_THE_STUDY), "")
    same = "but a study gives every run the same number of iterations"
    refuse(
        (
            not len(train) == len(test) == 1,
            "a study needs one dataset in DATASETS.TRAIN and one in DATASETS.TEST; the config has "
            f"{train} and {test}",
        ),
        (
            own,
            f"{own} is set by the study itself, run by run: see --variants, --fractions, --seeds "
            "and --output-dir",
        ),
        (
            cfg.TEST.EARLY_STOPPING,
            f"TEST.EARLY_STOPPING is {cfg.TEST.EARLY_STOPPING}, {same}: set it to 0",
        ),
        (
            cfg.SOLVER.EPOCHS,
            f"SOLVER.EPOCHS is {cfg.SOLVER.EPOCHS:g}, {same}, on few images as on many: set "
            "SOLVER.MAX_ITER, and EPOCHS 0.0",
        ),
    )
    parsed = tuple(parse_variant(variant, cfg) for variant in variants)
    refuse(
        (
            not len({variant.folder for variant in parsed}) == len(parsed) > 1,
            f"--variants {','.join(variants)}: expected at least two variants, each with another "
            "name (of a file, its name counts, not its folder, and of that letters, digits, '.', "
            "'_' and '-')",
        ),
        (
            not fractions or not all(0 < fraction <= 1 for fraction in fractions),
            f"--fractions {fractions}: expected numbers above 0 and at most 1",
        ),
        (seeds < 1, f"--seeds {seeds}: expected at least 1"),
    )
    ordered = tuple(sorted({float(fraction) for fraction in fractions}))
    return Design(config_file, tuple(options), parsed, ordered, tuple(range(seeds)))


def check_variants(design: Design, output_dir: Path) -> dict[str, float]:
    """Plan every variant's transfer without training.

    Returns variant name -> share of the model's parameters that come from its weights, 0 to 1.

    Raises:
        TransferPlanError, WeightFileError, ConfigError: of the first variant that would fail.
    """
    _check_classes(design)
    shares = {}
    for variant in design.variants:
        cfg, spec = design.fitted(design.first_run(variant), output_dir)
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        _, _, plan = plan_of_config(cfg, spec.classes)
        plan.check(cfg.MODEL.TRANSFER.STRICT)
        shares[variant.name] = round(plan.loaded_fraction(), 4)
    return shares


def _check_classes(design: Design) -> None:
    """Extended variants know base classes, too, but all are scored on those of DATASETS.TRAIN."""
    cfg = load_config(design.config_file, design.options)
    others = [variant.name for variant in design.variants if variant.keep != "class_rows"]
    if not (cfg.MODEL.TRANSFER.EXTEND and others):
        return
    register_catalogs(cfg.DATASETS.CATALOG)
    (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    for name in (train, test):
        check_dataset(name)
    learnt, tested = (MetadataCatalog.get(name).thing_classes for name in (train, test))
    if learnt != tested:
        raise ConfigError(
            f"--variants: MODEL.TRANSFER.EXTEND is for class_rows alone, and {others[0]} learns "
            f"only the classes of DATASETS.TRAIN {train!r} ({quoted(learnt)}); DATASETS.TEST "
            f"{test!r} has others ({quoted(tested)}), on which the variants cannot be compared. "
            "Test on a set of the same classes, in the same order, as DATASETS.TRAIN; or name "
            "variants class_rows@FILE alone"
        )
