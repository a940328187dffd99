"""What a study runs: every variant on every share of the images with every seed, all else equal."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.data.loader import training_images
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.engine.manifest import config_hash, dataset_fingerprint
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.incremental.classes import check_dataset
from transfer_maskrcnn.study.variants import Variant, parse_variant
from transfer_maskrcnn.surgery.hook import plan_of_config
from transfer_maskrcnn.text import quoted

CURVE_SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the iterations, beside the last
SET_BY_THE_STUDY = (
    *("MODEL.TRANSFER.KEEP", "MODEL.TRANSFER.STRICT", "DATASETS.TRAIN_FRACTION"),
    *("SEED", "OUTPUT_DIR"),
)
CHECKPOINTS = 8  # a run: what a kill costs at most is an eighth of it


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

    def arguments(self, run: Run, output_dir: Path) -> list[str]:
        """What ``tools/train_net.py`` is called with for ``run``."""
        own = ["DATASETS.TRAIN_FRACTION", str(run.fraction), "SEED", str(run.seed)]
        own += ["OUTPUT_DIR", str(output_dir / run.folder)]
        config = ["--config-file", self.config_file]
        return [*config, *self.options, *self._measured, *run.variant.settings, *own]

    def config(self, run: Run, output_dir: Path) -> CfgNode:
        """The config of ``run``, fitted to its datasets."""
        return self.fitted(run, output_dir)[0]

    def fitted(self, run: Run, output_dir: Path) -> tuple[CfgNode, RunSpec]:
        """The config of ``run``, and what it leaves to its datasets."""
        cfg = load_config(self.config_file, self.arguments(run, output_dir)[2:])
        spec = fit_config(cfg)
        return spec.resolve(cfg), spec

    @cached_property
    def _measured(self) -> list[str]:
        """Curve points and checkpoints, unless the config says when to evaluate."""
        cfg = load_config(self.config_file, self.options)
        last = cfg.SOLVER.MAX_ITER
        period = max(1, min(cfg.SOLVER.CHECKPOINT_PERIOD, last // CHECKPOINTS))
        settings = ["SOLVER.CHECKPOINT_PERIOD", str(period)]
        points = {0, *cfg.TEST.EVAL_ITERS}  # without the start, no curve tells what weights bring
        if not (cfg.TEST.EVAL_ITERS or cfg.TEST.EVAL_PERIOD):
            points |= {round(share * last) for share in CURVE_SHARES}
        return [*settings, "TEST.EVAL_ITERS", str(sorted(points))]


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
    if len(cfg.DATASETS.TRAIN) != 1 or len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(
            "a study needs one dataset in DATASETS.TRAIN and one in DATASETS.TEST; the config has "
            f"{cfg.DATASETS.TRAIN} and {cfg.DATASETS.TEST}"
        )
    set_by_the_study = [key for key in options[::2] if key in SET_BY_THE_STUDY]
    if set_by_the_study:
        raise ConfigError(
            f"{set_by_the_study[0]} is set by the study itself, run by run: see --variants, "
            "--fractions, --seeds and --output-dir"
        )
    if cfg.TEST.EARLY_STOPPING:
        raise ConfigError(
            f"TEST.EARLY_STOPPING is {cfg.TEST.EARLY_STOPPING}, but a study gives every run the "
            "same number of iterations: set it to 0"
        )
    if cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"SOLVER.EPOCHS is {cfg.SOLVER.EPOCHS:g}, but a study gives every run the same number "
            "of iterations, on few images as on many: set SOLVER.MAX_ITER, and EPOCHS 0.0"
        )
    parsed = tuple(parse_variant(variant, cfg) for variant in variants)
    if len({variant.folder for variant in parsed}) != len(variants) or len(variants) < 2:
        raise ConfigError(
            f"--variants {','.join(variants)}: expected at least two variants, each with another "
            "name (of a file, its name counts, not its folder, and of that letters, digits, '.', "
            "'_' and '-')"
        )
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ConfigError(f"--fractions {fractions}: expected numbers above 0 and at most 1")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected at least 1")
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
        run = Run(variant, design.fractions[-1], design.seeds[0])
        cfg, spec = design.fitted(run, output_dir)
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
    if cfg.DATASETS.CATALOG:
        register_catalog(cfg.DATASETS.CATALOG)
    (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    learnt, tested = (_classes_of(name) for name in (train, test))
    if learnt != tested:
        raise ConfigError(
            f"--variants: MODEL.TRANSFER.EXTEND is for class_rows alone, and {others[0]} learns "
            f"only the classes of DATASETS.TRAIN {train!r} ({quoted(learnt)}); DATASETS.TEST "
            f"{test!r} has others ({quoted(tested)}), on which the variants cannot be compared. "
            "Test on a set of the same classes, in the same order, as DATASETS.TRAIN; or name "
            "variants class_rows@FILE alone"
        )


def _classes_of(dataset: str) -> list[str]:
    check_dataset(dataset)
    return list(MetadataCatalog.get(dataset).thing_classes)


def images_by_fraction(design: Design, output_dir: Path) -> list[dict[str, float]]:
    """How many images each fraction trains on, with the first seed."""
    counts = []
    for fraction in design.fractions:
        cfg = design.config(Run(design.variants[0], fraction, design.seeds[0]), output_dir)
        counts.append({"fraction": fraction, "images": training_images(cfg)})
    return counts


def run_key(cfg: CfgNode) -> dict[str, str]:
    """What a run's result depends on, but for the machine and the versions of libraries.

    Where the weights and the catalog lie does not matter: what is in them does.
    """
    content = cfg.clone()
    content.defrost()
    content.MODEL.WEIGHTS, content.DATASETS.CATALOG = "", ""
    return {
        "config": config_hash(content),
        "data": _data_fingerprint(_datasets(cfg)),
        "weights": _checksum(cfg.MODEL.WEIGHTS),
    }


def _datasets(cfg: CfgNode) -> tuple[str, ...]:
    """All that a run's result depends on."""
    labels = cfg.MODEL.TRANSFER.PSEUDO_LABELS
    calibration = (labels.CALIBRATION_SET,) if labels.ENABLED and labels.CALIBRATION_SET else ()
    data = cfg.DATASETS
    return (*data.TRAIN, *data.TEST, *data.TEST_BASE, *calibration)


@lru_cache
def _data_fingerprint(names: tuple[str, ...]) -> str:
    """Of the annotations, and of the images as far as their files' sizes tell them apart."""
    digest = hashlib.sha256(dataset_fingerprint(names).encode())
    for name in names:
        for record in DatasetCatalog.get(name):
            digest.update(f"{os.path.getsize(record['file_name'])} ".encode())
    return digest.hexdigest()[:16]


@lru_cache
def _checksum(weights: str) -> str:
    if not os.path.isfile(weights):
        return weights  # an address: what lies there has a name of its own
    digest = hashlib.sha256()
    with open(weights, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
