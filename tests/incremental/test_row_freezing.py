"""``all_but_novel_rows``: nothing but the rows of novel classes moves, by no back door either."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer
from transfer_maskrcnn.errors import CheckpointError, ConfigError
from transfer_maskrcnn.incremental.row_freezing import _hold
from transfer_maskrcnn.modeling import precision
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.freezing import rows_per_class
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.read import write_weights

BASE = 2  # classes of the source; the toy's "x" is novel
SCORE = "roi_heads.box_predictor.cls_score"
BOX = "roi_heads.box_predictor.bbox_pred"
MASK = "roi_heads.mask_head.predictor"
AGNOSTIC = [
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"),
    True,
]
Make = Callable[..., CfgNode]


@pytest.fixture
def extended(toy: Make, tmp_path: Path) -> Make:
    """extended(*opts, source=()) -> the fitted config of three iterations from a source of two
    classes, a and b, of which the images have none; ``source``: opts of the source's model."""

    def make(*opts: Any, source: Any = (), **kwargs: Any) -> CfgNode:
        built = toy(*source)
        built.MODEL.ROI_HEADS.NUM_CLASSES = BASE
        torch.manual_seed(1)
        state = build_model(built).state_dict()
        path = tmp_path / "source.pth"
        write_weights(path, state, {"thing_classes": ["a", "b"]})
        transfer = [
            *("MODEL.WEIGHTS", str(path), "MODEL.TRANSFER.ENABLED", True),
            *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
            *("MODEL.TRANSFER.FREEZE", "all_but_novel_rows", "SOLVER.MAX_ITER", 3),
        ]
        return toy(*transfer, *opts, **kwargs)

    return make


def held_and_free(state: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each tensor's rows that must stay, and those of class x, as a reader counts them by hand."""
    parts = {}
    for name, tensor in state.items():
        module = name.rpartition(".")[0]
        rows = {SCORE: [BASE], BOX: [4 * BASE + i for i in range(4)], MASK: [BASE]}.get(module, [])
        if len(tensor.shape) == 0 or (module in (BOX, MASK) and len(tensor) in (1, 4)):
            rows = []  # class-agnostic
        free = torch.zeros(max(tensor.numel(), 1) if not tensor.shape else len(tensor)).bool()
        free[rows] = True
        flat = tensor.reshape(len(free), -1)
        parts[name] = (flat[~free], flat[free])
    return parts


def files_of(cfg: CfgNode) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before the first iteration, and the exported ones."""
    folder = Path(cfg.OUTPUT_DIR)
    names = ("model_initial.safetensors", "model_final.safetensors")
    initial, final = (dict(load_weights(folder / name).tensors) for name in names)
    return initial, final


def check_held(cfg: CfgNode) -> set[str]:
    """The modules of which novel rows have moved; everything else is as it was, bit for bit."""
    before, after = (held_and_free(state) for state in files_of(cfg))
    moved = set()
    for name, (held, free) in before.items():
        assert torch.equal(held, after[name][0]), f"{name}: what must stay has moved"
        if not torch.equal(free, after[name][1]):
            moved.add(name.rpartition(".")[0])
    return moved


# options of the run, modules of which rows of x have moved; options of the source
BACK_DOORS = [
    ([], {SCORE, BOX, MASK}, []),
    (["SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.MOMENTUM", 0.99], {SCORE, BOX, MASK}, []),
    (["SOLVER.L2_SP", 0.5], {SCORE, BOX, MASK}, []),
    (["SOLVER.EMA_DECAY", 0.9], {SCORE, BOX, MASK}, []),
    (["SOLVER.AMP.ENABLED", True], {SCORE, BOX, MASK}, []),
    (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"], {SCORE, BOX, MASK}, []),
    (["MODEL.TRANSFER.CACHE_FEATURES", "off"], {SCORE, BOX, MASK}, []),
    (["SOLVER.FREEZE_SCHEDULE", [[2, "backbone"]]], {SCORE, BOX, MASK}, []),
    # nothing of a class-agnostic predictor is novel
    (AGNOSTIC, {SCORE}, AGNOSTIC),
    (["MODEL.ROI_BOX_HEAD.COSINE_SCALE", 20.0], {SCORE, BOX, MASK}, []),
]


@pytest.mark.parametrize(("opts", "moved", "source"), BACK_DOORS)
def test_only_novel_rows_move(
    opts: list[Any],
    moved: set[str],
    source: list[Any],
    extended: Make,
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    cfg = extended(*opts, source=source)
    run = train(cfg)
    assert check_held(cfg) == moved
    predictor = run.trainer.model.roi_heads.box_predictor
    features = torch.rand(7, 16, generator=torch.Generator().manual_seed(0))
    scores = []
    for state in files_of(cfg):
        own = {k.partition("box_predictor.")[2]: v for k, v in state.items()}
        predictor.load_state_dict({k: v for k, v in own.items() if k})
        with torch.no_grad():
            scores.append(predictor(features)[0])
    base = [*range(BASE), BASE + 1]  # and the background
    assert torch.equal(scores[0][:, base], scores[1][:, base])
    assert not torch.equal(scores[0], scores[1])


def test_a_resumed_run_holds_on(extended: Make, train: Callable[..., Any]) -> None:
    cfg = extended("SOLVER.WEIGHT_DECAY", 0.5)
    train(cfg)
    cfg.SOLVER.MAX_ITER = 5
    assert len(train(cfg, resume=True).losses) == 2
    assert check_held(cfg) == {SCORE, BOX, MASK}


class Watch(HookBase):
    """The classifier's rows and their momentum before each iteration."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.momentum: list[Tensor] = []

    def before_step(self) -> None:
        weight = self.trainer.model.roi_heads.box_predictor.cls_score.weight
        state = self.trainer.optimizer.state.get(weight, {})
        self.rows.append(weight.detach().clone())
        self.momentum.append(state.get("momentum_buffer", torch.zeros(())).clone())


@pytest.mark.parametrize("resumed_at", [None, 1, 2])
def test_a_phase_and_then_all_predictors(
    resumed_at: int | None, extended: Make, train: Callable[..., Any]
) -> None:
    cfg = extended(
        *("SOLVER.FREEZE_SCHEDULE", [[2, "all_but_novel_rows"]], "SOLVER.WEIGHT_DECAY", 0.5),
        *("MODEL.TRANSFER.FREEZE", "all_but_predictors", "SOLVER.MAX_ITER", 4),
    )
    watch = Watch()
    if resumed_at:
        cfg.SOLVER.FREEZE_SCHEDULE, cfg.SOLVER.MAX_ITER = (
            [[resumed_at, "all_but_novel_rows"]],
            resumed_at,
        )
        train(cfg, watch)
        cfg.SOLVER.FREEZE_SCHEDULE, cfg.SOLVER.MAX_ITER = [[2, "all_but_novel_rows"]], 4
    train(cfg, watch, resume=bool(resumed_at))
    base = [*range(BASE), BASE + 1]
    at = [rows[base] for rows in watch.rows]
    assert torch.equal(at[0], at[1]) and torch.equal(at[1], at[2])
    assert not (at[2] == at[3]).all(1).any(), "then every row is trained"
    assert not watch.momentum[2][base].any() and watch.momentum[2][BASE].any()
    assert not torch.equal(watch.rows[0][BASE], watch.rows[2][BASE])


def test_what_is_frozen_is_cached(
    extended: Make, train: Callable[..., Any], computed: list[int]
) -> None:
    cfg = extended("SOLVER.MAX_ITER", 6, "INPUT.RANDOM_FLIP", "none")
    run = train(cfg)
    part = run.trainer.model.frozen_part()
    assert part is not None and part.name == "backbone" and part.rpn is not None
    assert len(computed) == 4, "each image once"


def test_gradients_of_held_rows_are_zero() -> None:
    """Also where they are infinite: clipping by norm, and the AMP scaler, see novel rows alone."""
    model = nn.Module()
    model.roi_heads = nn.Module()
    model.roi_heads.num_classes = 3
    model.roi_heads.box_predictor = nn.Module()
    model.roi_heads.box_predictor.cls_score = layer = nn.Linear(2, 4)
    held = _hold(model, [1])
    layer.weight.backward(torch.tensor([[torch.inf, 1.0], [2.0, 3.0], [torch.nan, 1.0], [1, 1.0]]))
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0, 0], [2, 3], [0, 0], [0, 0]]
    assert [h.rows.tolist() for h in held] == [[0, 2, 3], [0, 2, 3]]


def test_rows_of_each_predictor(toy: Make) -> None:
    cfg = toy()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    kinds = {f"{SCORE}.": 1, f"{BOX}.": 4, f"{MASK}.": 1}
    expected = {name + leaf: n for name, n in kinds.items() for leaf in ("weight", "bias")}
    assert rows_per_class(build_model(cfg)) == expected
    cfg.merge_from_list(AGNOSTIC)
    scores = {name: n for name, n in expected.items() if name.startswith(SCORE)}
    assert rows_per_class(build_model(cfg)) == scores
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    found = rows_per_class(build_model(cfg))
    assert len(found) == 6 and all(".cls_score." in name for name in found)


def test_rows_of_point_rend(toy: Make) -> None:
    cfg = toy()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = 3
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = "PointRendMaskHead", True
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE, cfg.MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION = "", 7
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM, cfg.MODEL.POINT_HEAD.FC_DIM = 8, 8
    found = rows_per_class(build_model(cfg))
    masks = {name: n for name, n in found.items() if "mask_head" in name}
    place = "roi_heads.mask_head."
    assert masks == {
        **{f"{place}coarse_head.prediction.{leaf}": 49 for leaf in ("weight", "bias")},
        **{f"{place}point_head.predictor.{leaf}": 1 for leaf in ("weight", "bias")},
    }


def test_needs_extend(toy: Make) -> None:
    for key, opts in (
        ("MODEL.TRANSFER.FREEZE", ["MODEL.TRANSFER.FREEZE", "all_but_novel_rows"]),
        ("SOLVER.FREEZE_SCHEDULE", ["SOLVER.FREEZE_SCHEDULE", [[2, "all_but_novel_rows"]]]),
    ):
        with pytest.raises(ConfigError, match=rf"{key} all_but_novel_rows.*EXTEND is False; set"):
            toy(*opts)


def test_needs_a_novel_class(extended: Make, train: Callable[..., Any], tmp_path: Path) -> None:
    cfg = extended()
    train(cfg)
    again = extended()
    again.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, "model_final.safetensors"))
    with pytest.raises(ConfigError, match=r"has all classes of DATASETS\.TRAIN.*nothing is left"):
        fit_config(again)


def test_a_resumed_run_whose_source_is_gone(extended: Make, train: Callable[..., Any]) -> None:
    cfg = extended()
    train(cfg)
    Path(cfg.MODEL.WEIGHTS).unlink()
    cfg.SOLVER.MAX_ITER = 4
    assert len(train(cfg, resume=True).losses) == 1
    assert check_held(cfg) == {SCORE, BOX, MASK}
    Path(cfg.OUTPUT_DIR, "run.json").unlink()
    cfg.SOLVER.MAX_ITER = 5
    with pytest.raises(CheckpointError, match=r"run\.json are gone"):
        train(cfg, resume=True)


# COSINE_SCALE of the run and of its source, whether base classes say something else than before
CLASSIFIERS = [(0.0, 0.0, False), (20.0, 0.0, True), (20.0, 20.0, False)]


@pytest.mark.parametrize(("scale", "of_source", "changes"), CLASSIFIERS)
def test_a_linear_source_under_cosine(
    scale: float, of_source: float, changes: bool, extended: Make, caplog: pytest.LogCaptureFixture
) -> None:
    key = "MODEL.ROI_BOX_HEAD.COSINE_SCALE"
    run = TransferTrainer(extended(key, scale, source=[key, of_source]))
    run.resume_or_load(False)
    run.start_iter = run.iter = 0
    logger = logging.getLogger("transfer_maskrcnn.incremental.row_freezing")
    logger.addHandler(caplog.handler)
    try:
        with EventStorage():
            run.before_train()
    finally:
        logger.removeHandler(caplog.handler)
    warned = {r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    assert len(warned) == changes
    assert all("now scored by cosine" in m and "set COSINE_SCALE 0.0" in m for m in warned)
