"""What an evaluation knows of its model, for the explanation of its AP: ``settings.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.evaluation.explain.facts import SETTINGS_FILE
from transfer_maskrcnn.evaluation.explain.folder import RESULTS_FILE, explain_folder
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.surgery.target import unwrapped

# Each is trained, or loaded, as one.
_PARTS = (
    "proposal_generator",
    "roi_heads.box_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_head",
)


def explain_evaluation(cfg: CfgNode, model: nn.Module) -> None:
    """Write ``settings.json`` and ``explanation.json`` for every test set just evaluated."""
    content = settings(cfg, model)
    for name in cfg.DATASETS.TEST:
        folder = Path(cfg.OUTPUT_DIR, "inference", name)
        if (folder / RESULTS_FILE).is_file():
            write_json(folder / SETTINGS_FILE, content)
            explain_folder(folder)


def settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """The keys that decide which detections there are, and the parts that were never trained."""
    heads = cfg.MODEL.ROI_HEADS
    return {
        "score_threshold": heads.SCORE_THRESH_TEST,
        "nms_threshold": heads.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "untrained": untrained_parts(model),
    }


def untrained_parts(model: nn.Module) -> list[str]:
    """Names of parts whose weights are fresh from their initialisation.

    Every bias begins at exactly 0, and the first step of training moves it. So this holds for
    weights that silently did not load, too, which no stamp or plan tells.
    """
    parameters = dict(unwrapped(model).named_parameters())
    fresh = []
    for part in _PARTS:
        biases = [p for n, p in parameters.items() if n.startswith(part) and n.endswith(".bias")]
        if biases and not any(bias.any() for bias in biases):
            fresh.append(part)
    return fresh
