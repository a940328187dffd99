"""What a variant's name means, and what training from nothing is given to be a fair rival."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.study.design import Variant, parse_variant


@pytest.fixture
def thin(repository: object) -> CfgNode:
    return load_config(f"{repository}/configs/Base-thin-R50-FPN-cpu.yaml", ["SEED", "0"])


def with_weights(cfg: CfgNode, variant: str) -> Variant:
    cfg.MODEL.WEIGHTS = "coco.pth"
    return parse_variant(variant, cfg)


VARIANTS = [
    # text, name, keep, weights
    ("backbone", "backbone", "backbone", "coco.pth"),
    ("class_rows", "class_rows", "class_rows", "coco.pth"),
    ("backbone@/some/where/a.pkl", "backbone@a.pkl", "backbone", "/some/where/a.pkl"),
    (" backbone_fpn @ b.pth ", "backbone_fpn@b.pth", "backbone_fpn", "b.pth"),
    ("random_init", "random_init", "random_init", ""),
    ("from_scratch", "from_scratch", "random_init", ""),
]


@pytest.mark.parametrize(("text", "name", "keep", "weights"), VARIANTS)
def test_names(text: str, name: str, keep: str, weights: str, thin: CfgNode) -> None:
    variant = with_weights(thin, text)
    assert (variant.name, variant.keep, variant.weights) == (name, keep, weights)
    assert "/" not in variant.folder and "@" not in variant.folder
    thin.merge_from_list(list(variant.settings))
    assert (weights, keep) == (thin.MODEL.WEIGHTS, thin.MODEL.TRANSFER.KEEP)


MISTAKES = [
    ("bakbone", "no variant 'bakbone'.*did you mean 'backbone'"),  # misspelt
    ("backbone_fpn_rpm@a.pth", "did you mean 'backbone_fpn_rpn'"),  # misspelt, with a file
    ("random_init@a.pth", "random_init trains from random weights and takes no file"),
    ("from_scratch@a.pth", "from_scratch trains from random weights"),
    ("", "no variant ''"),  # a comma too many
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str, thin: CfgNode) -> None:
    with pytest.raises(ConfigError, match=message):
        with_weights(thin, text)


def test_an_variant_without_weights_to_start_from(thin: CfgNode) -> None:
    with pytest.raises(ConfigError, match=r"set MODEL.WEIGHTS in the config, or write backbone@"):
        parse_variant("backbone", thin)


def test_class_arguments_are_for_class_rows_alone(thin: CfgNode) -> None:
    thin.MODEL.TRANSFER.CLASS_MAP = [["kite", "balloon"]]
    thin.MODEL.TRANSFER.NEW_CLASS_INIT = "mean"
    for name, kept in (("class_rows", True), ("all_but_predictors", False), ("random_init", False)):
        cfg = thin.clone()
        cfg.merge_from_list(list(with_weights(cfg, name).settings))
        assert bool(cfg.MODEL.TRANSFER.CLASS_MAP) == kept
        assert (cfg.MODEL.TRANSFER.NEW_CLASS_INIT == "mean") == kept


EXTENDED = [
    # FREEZE and SOLVER.FREEZE_SCHEDULE of the config, and those of a variant that is not extended
    ("backbone_fpn", [], "backbone_fpn", []),
    ("all_but_novel_rows", [], "", []),
    (
        "backbone",
        [[5, "all_but_novel_rows"], [3, "backbone_fpn"]],
        *("backbone", [[5, ""], [3, "backbone_fpn"]]),
    ),
]


@pytest.mark.parametrize(("freeze", "phases", "frozen", "kept"), EXTENDED)
def test_variants_without_extension_have_no_base_classes_to_keep(
    freeze: str, phases: list[Any], frozen: str, kept: list[Any], repository: object
) -> None:
    extend = load_config(f"{repository}/configs/shapes/mask_rcnn_extend.yaml")
    extend.MODEL.TRANSFER.FREEZE, extend.SOLVER.FREEZE_SCHEDULE = freeze, phases
    extend.MODEL.TRANSFER.PSEUDO_LABELS.ENABLED = True
    cfg = extend.clone()
    cfg.merge_from_list(list(parse_variant("all_but_predictors", cfg).settings))
    transfer = cfg.MODEL.TRANSFER
    assert not (transfer.EXTEND or transfer.PSEUDO_LABELS.ENABLED or transfer.DISTILLATION)
    assert ((), frozen, kept) == (
        cfg.DATASETS.TEST_BASE,
        transfer.FREEZE,
        cfg.SOLVER.FREEZE_SCHEDULE,
    )
    rows = extend.clone()
    rows.merge_from_list(list(parse_variant("class_rows", rows).settings))
    assert rows == extend, "class_rows is what the config says"


def test_structure_shows_the_mistake_as_it_is(thin: CfgNode) -> None:
    before = thin.clone()
    thin.merge_from_list(list(parse_variant("random_init", thin).settings))
    assert not thin.MODEL.TRANSFER.STRICT, "the plan would refuse it"
    for key in ("BACKBONE", "RESNETS", "FPN", "PIXEL_STD"):
        assert thin.MODEL[key] == before.MODEL[key]


def fair(cfg: CfgNode) -> CfgNode:
    cfg.merge_from_list(list(parse_variant("from_scratch", cfg).settings))
    return cfg


def test_fair_training_from_nothing(thin: CfgNode) -> None:
    thin.SOLVER.MAX_ITER, thin.SOLVER.WARMUP_ITERS = 4000, 100
    thin.MODEL.TRANSFER.FREEZE, thin.SOLVER.FREEZE_SCHEDULE = "backbone", [[5, "backbone"]]
    thin.SOLVER.LR_MULTIPLIERS, thin.SOLVER.L2_SP = [["backbone", 0.1]], 0.1
    cfg = fair(thin)
    spared = (
        cfg.MODEL.TRANSFER.FREEZE,
        cfg.SOLVER.FREEZE_SCHEDULE,
        cfg.SOLVER.LR_MULTIPLIERS,
        cfg.SOLVER.L2_SP,
    )
    assert spared == ("", [], [], 0), "random weights need no care"
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) == ("GN", "GN")
    assert cfg.MODEL.PIXEL_STD == [57.375, 57.12, 58.395]
    assert cfg.SOLVER.WARMUP_ITERS == 400
    assert cfg.MODEL.TRANSFER.STRICT, "nothing in it is to be refused"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEVICE = 1, "cpu"
    assert all(p.requires_grad for p in build_model(cfg).parameters())


def test_too_few_channels_for_groups(thin: CfgNode) -> None:
    thin.MODEL.RESNETS.WIDTH_PER_GROUP = 16
    assert fair(thin).MODEL.RESNETS.NORM == "BN"


def test_what_is_fair_already_stays(repository: object) -> None:
    cfg = load_config(f"{repository}/configs/shapes/mask_rcnn_transfer.yaml")
    before = cfg.clone()
    after = fair(cfg)
    assert after.MODEL.RESNETS == before.MODEL.RESNETS
    assert after.MODEL.FPN == before.MODEL.FPN
    assert after.MODEL.PIXEL_STD == before.MODEL.PIXEL_STD
    assert after.SOLVER.WARMUP_ITERS == before.SOLVER.WARMUP_ITERS
