"""When frozen layers are cached, what is said of it, and what an entry depends on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from transfer_maskrcnn.data.mapper import CheckedDatasetMapper
from transfer_maskrcnn.engine.hooks.record import read_curve
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.feature_cache import hook as cache_hook
from transfer_maskrcnn.feature_cache.cache import Canvases
from transfer_maskrcnn.feature_cache.hook import CacheFeatures, fingerprint
from transfer_maskrcnn.modeling import precision
from transfer_maskrcnn.modeling.build import build_model

Toy = Callable[..., CfgNode]
Train = Callable[..., Any]
FREEZE, CACHE = "MODEL.TRANSFER.FREEZE", "MODEL.TRANSFER.CACHE_FEATURES"
BRIEF = (FREEZE, "backbone_fpn", "SOLVER.MAX_ITER", 6)
VIEWS = 8  # of four images, as they are and flipped


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """said() -> what the hook logged at INFO and above."""
    caplog.set_level(logging.INFO, logger="transfer_maskrcnn")
    return lambda: [r.getMessage() for r in caplog.records if r.pathname == cache_hook.__file__]


def prepared(cfg: CfgNode) -> tuple[TransferTrainer, CacheFeatures]:
    """A trainer before its first iteration, and its hook."""
    trainer = TransferTrainer(cfg)
    return trainer, next(h for h in trainer._hooks if isinstance(h, CacheFeatures))


class OwnMapper(CheckedDatasetMapper):
    """A user's."""


def colourful(cfg: CfgNode) -> DatasetMapper:
    augmentations = [T.ResizeShortestEdge(64), T.RandomBrightness(0.9, 1.1)]
    return CheckedDatasetMapper(cfg, is_train=True, augmentations=augmentations)


FORBIDDEN = [
    # options, the mapper, words of the reason, of the fix
    (
        ("INPUT.MIN_SIZE_TRAIN", (48, 64)),
        None,
        r"INPUT\.MIN_SIZE_TRAIN \(48, 64\) resizes to a random size",
        r"leave one size, for example INPUT\.MIN_SIZE_TRAIN \(64,\)",
    ),
    (
        ("INPUT.MIN_SIZE_TRAIN", (60, 64), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        None,
        r"INPUT\.MIN_SIZE_TRAIN \(60, 64\)",
        r"leave one size",
    ),
    (
        ("INPUT.CROP.ENABLED", True),
        None,
        r"INPUT\.CROP\.ENABLED cuts",
        r"set INPUT\.CROP\.ENABLED False",
    ),
    ((), colourful, "RandomBrightness may change images at random", "leave out RandomBrightness"),
    ((), OwnMapper, "OwnMapper may change images", "map them with CheckedDatasetMapper"),
    # any function can be a mapper
    ((), lambda cfg: colourful, "colourful may change images", "map them with CheckedDatasetMap"),
]


@pytest.mark.parametrize(("opts", "mapper", "reason", "fix"), FORBIDDEN)
def test_augmentation_that_forbids_it(
    opts: tuple[Any, ...],
    mapper: Any,
    reason: str,
    fix: str,
    toy: Toy,
    said: Callable[[], list[str]],
) -> None:
    def enter(mode: str) -> Any:
        trainer, hook = prepared(toy(*BRIEF, *opts, CACHE, mode))
        if mapper is not None:
            trainer.data_loader.dataset.mapper = mapper(trainer.cfg)
        hook.before_train()
        return trainer.model.recall

    assert enter("auto") is None
    assert len(said()) == 1
    assert re.search(f"{CACHE} auto: not used from iteration 0 on, since {reason}", said()[0])
    for mode in ("memory", "disk"):
        with pytest.raises(ConfigError, match=rf"{CACHE} {mode}: {reason}.*; {fix}.*or set .* off"):
            enter(mode)


ALLOWED = [
    # options, views of the four images
    (("INPUT.MIN_SIZE_TRAIN", (64, 64), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), VIEWS),
    (("INPUT.MIN_SIZE_TRAIN", (64,)), VIEWS),
    (("INPUT.MIN_SIZE_TRAIN", (0,)), VIEWS),  # as they are
    (("INPUT.RANDOM_FLIP", "vertical"), VIEWS),
    (("INPUT.RANDOM_FLIP", "none"), 4),
    (("DATALOADER.NUM_WORKERS", 2), VIEWS),
]


@pytest.mark.parametrize(("opts", "views"), ALLOWED)
def test_augmentation_that_allows_it(
    opts: tuple[Any, ...],
    views: int,
    toy: Toy,
    train: Train,
    computed: list[int],
    said: Callable[[], list[str]],
) -> None:
    train(toy(*BRIEF, *opts, CACHE, "auto"))
    assert len(computed) == views, "none is computed while it trains"
    assert f"backbone computed once for {views} views of 4 images" in said()[0]


def test_the_ordinary_case_is_not_spoken_of(
    toy: Toy, train: Train, said: Callable[[], list[str]]
) -> None:
    train(toy("SOLVER.MAX_ITER", 1, CACHE, "auto"))
    assert said() == []
    for mode in ("memory", "disk"):
        words = rf"{CACHE} {mode}: the backbone trains; freeze it with {FREEZE} backbone, or set"
        with pytest.raises(ConfigError, match=words):
            train(toy("SOLVER.MAX_ITER", 1, CACHE, mode))


@pytest.mark.slow
def test_evaluations_between_iterations(toy: Toy, train: Train, computed: list[int]) -> None:
    """They are as without a cache, and so is what is trained after them."""
    runs, curves = [], []
    for mode in ("off", "memory"):
        cfg = toy(*BRIEF, CACHE, mode, "TEST.EVAL_PERIOD", 2)
        cfg.DATASETS.TEST, cfg.TEST.VAL_LOSS = cfg.DATASETS.TRAIN, True
        runs.append(train(cfg))
        curves.append(read_curve(Path(cfg.OUTPUT_DIR, "eval_history.json")))
    assert runs[0].difference(runs[1]) < 1e-5
    assert len(curves[0]) == len(curves[1]) == 3
    for plain, cached in zip(*curves, strict=True):
        assert cached["val_loss"] == pytest.approx(plain["val_loss"], abs=1e-4)
    assert len(computed) == VIEWS


# iterations of two images out of four, whether so few passes pay
@pytest.mark.parametrize(("iterations", "pays"), [(4, False), (5, True)])
@pytest.mark.slow
def test_auto_wants_more_passes_than_views(
    iterations: int, pays: bool, toy: Toy, train: Train, computed: list[int], said: Any
) -> None:
    train(toy(*BRIEF, "SOLVER.MAX_ITER", iterations, CACHE, "auto"))
    assert len(computed) == (VIEWS if pays else 0)
    assert pays or "each image is seen 2.0 times, in 2 view(s): nothing to save" in said()[0]
    computed.clear()
    train(toy(*BRIEF, "SOLVER.MAX_ITER", 1, CACHE, "memory"))
    assert len(computed) == VIEWS, "who asks for it, gets it"


def test_a_loader_of_ones_own(toy: Toy, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_hook, "SeededImages", SimpleNamespace)
    train(toy(*BRIEF, CACHE, "auto"))
    with pytest.raises(ConfigError, match=f"the data loader is not .*; set {CACHE} off"):
        train(toy(*BRIEF, CACHE, "disk"))


def test_several_processes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    _trainer, hook = prepared(toy(*BRIEF, CACHE, "memory"))
    monkeypatch.setattr(cache_hook.comm, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="several processes; use --num-gpus 1, or set"):
        hook.before_train()


def test_an_unknown_mode(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=f"{CACHE} is 'disc'; expected .*did you mean 'disk'"):
        TransferTrainer(toy(CACHE, "disc"))


SIDES = (64, 64)
SMALL = Canvases(SIDES, SIDES)


def key(cfg: CfgNode, canvas: Canvases = SMALL, weight: str = "", change: float = 0.0) -> str:
    torch.manual_seed(0)
    model: Any = build_model(cfg)
    part = model.frozen_part()
    assert part is not None
    if weight:
        model.state_dict()[weight].view(-1)[0] += change
    return fingerprint(cfg, part, canvas)


KEYS = [
    # options, a weight that is changed, whether entries become others
    ((), "", False),
    (("SOLVER.BASE_LR", 0.5), "", False),
    (("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16), "", False),
    (("MODEL.WEIGHTS", "elsewhere.pth"), "", False),
    ((), "roi_heads.box_predictor.cls_score.bias", False),
    ((), "backbone.bottom_up.res5.2.conv3.norm.running_mean", True),
    ((), "proposal_generator.rpn_head.conv.bias", True),
    (("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]), "", True),
    (("MODEL.RPN.NMS_THRESH", 0.6), "", True),
    (("INPUT.FORMAT", "RGB"), "", True),
    (("SOLVER.AMP.ENABLED", True), "", True),
    ((FREEZE, "backbone_fpn"), "", True),
]


@pytest.mark.parametrize(("opts", "weight", "other"), KEYS)
def test_what_an_entry_depends_on(
    opts: tuple[Any, ...], weight: str, other: bool, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    preset = (FREEZE, "backbone_fpn_rpn")
    same = key(toy(*preset)) == key(toy(*preset, *opts), weight=weight, change=0.01)
    assert same is not other


def test_an_entry_depends_on_its_canvas(toy: Toy) -> None:
    cfg = toy(FREEZE, "backbone")
    sizes = [SMALL, Canvases((96, 64), SIDES), Canvases(SIDES, (96, 64))]
    assert len({key(cfg, canvas) for canvas in sizes}) == 3


def test_a_resumed_run_decides_as_the_first_one_did(toy: Toy) -> None:
    trainer, hook = prepared(toy(*BRIEF, CACHE, "auto"))
    trainer.start_iter = trainer.max_iter - 1  # one step alone would not pay
    hook.before_train()
    assert trainer.model.recall is not None


def test_auto_does_not_pad_small_images_to_a_large_one(
    toy: Toy, said: Callable[[], list[str]]
) -> None:
    sizes = [(64, 64), (64, 64), (64, 64), (64, 640)]
    opts = (*BRIEF, "INPUT.MAX_SIZE_TRAIN", 640, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    trainer, hook = prepared(toy(*opts, CACHE, "auto", sizes=sizes))
    hook.before_train()
    assert trainer.model.recall is None
    assert re.search(r"differ so much in size that, padded to one, they are 7\.8 times", said()[0])
    trainer, asked_for = prepared(toy(*opts, CACHE, "memory", sizes=sizes))
    asked_for.before_train()
    assert trainer.model.recall is not None
