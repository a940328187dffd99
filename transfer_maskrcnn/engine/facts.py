"""What an evaluation knows of its model, for the explanation of its AP: ``settings.json``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.engine.evaluated_sets import sets_to_test
from transfer_maskrcnn.evaluation.explain.facts import SETTINGS_FILE
from transfer_maskrcnn.evaluation.explain.folder import (
    EXPLANATION_FILE,
    RESULTS_FILE,
    explain_folder,
)
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.surgery.target import unwrapped

logger = logging.getLogger(__name__)

# Each is trained, or loaded, as one.
_PARTS = (
    "proposal_generator",
    "roi_heads.box_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_head",
)


def explain_evaluation(cfg: CfgNode, model: nn.Module) -> None:
    """Write ``settings.json`` and ``explanation.json`` for every test set just evaluated.

    Where that fails, a warning says why; an evaluation is worth more than its explanation.
    """
    for name in sets_to_test(cfg):
        folder = Path(cfg.OUTPUT_DIR, "inference", name)
        if not (folder / RESULTS_FILE).is_file():
            continue
        try:
            (folder / EXPLANATION_FILE).unlink(missing_ok=True)  # of an earlier evaluation
            write_json(folder / SETTINGS_FILE, settings(cfg, model))
            explain_folder(folder)
        except Exception as error:
            logger.warning("AP on %s is not explained: %s: %s", name, type(error).__name__, error)


def settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """The keys that decide which detections there are, and the parts that were never trained."""
    heads, rpn = cfg.MODEL.ROI_HEADS, cfg.MODEL.RPN
    return {
        "score_threshold": heads.SCORE_THRESH_TEST,
        "nms_threshold": heads.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "min_size_train": [int(side) for side in cfg.INPUT.MIN_SIZE_TRAIN],
        "rpn_pre_nms_topk": rpn.PRE_NMS_TOPK_TEST,
        "rpn_post_nms_topk": rpn.POST_NMS_TOPK_TEST,
        "rpn_nms_threshold": rpn.NMS_THRESH,
        "rpn_levels": len(rpn.IN_FEATURES),
        # Biases that the solver leaves alone stay at 0 in a trained model, too.
        "untrained": untrained_parts(model) if cfg.SOLVER.BIAS_LR_FACTOR else [],
    }


def untrained_parts(model: nn.Module) -> list[str]:
    """Names of parts whose weights are fresh from their initialisation.

    Every bias begins at exactly 0, and the first step of training moves it. So this holds for
    weights that silently did not load, too, which no metadata or plan tells; but not where
    SOLVER.BIAS_LR_FACTOR is 0.
    """
    parameters = dict(unwrapped(model).named_parameters())
    fresh = []
    for part in _PARTS:
        biases = [p for n, p in parameters.items() if n.startswith(part) and n.endswith(".bias")]
        if biases and not any(bias.any() for bias in biases):
            fresh.append(part)
    return fresh
