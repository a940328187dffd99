"""Fits a config to a dataset: measures it, decides, and gives each decision its reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from transfer_maskrcnn.autoconfig import decisions
from transfer_maskrcnn.autoconfig.datasets import choose_datasets
from transfer_maskrcnn.autoconfig.lines import Line, comment, scalar, settings_of, yaml_text
from transfer_maskrcnn.doctor.anchors import Measures, measure

__all__ = [
    "Data",
    "Line",
    "Measures",
    "choose_datasets",
    "comment",
    "fit_lines",
    "measure",
    "scalar",
    "settings_of",
    "yaml_text",
]


@dataclass(frozen=True)
class Data:
    """What a config is fitted to.

    Attributes:
        classes: names.
        train: of the training images.
        val: of the validation images; None where there are none.
    """

    classes: list[str]
    train: Measures
    val: Measures | None = None


def fit_lines(
    data: Data,
    base: CfgNode,
    iterations: int | None = None,
    evaluations: int | None = None,
) -> list[Line]:
    """The lines that fit the config ``base`` to a dataset, each with its reason.

    Args:
        data: with at least one object in ``train``.
        base: decides the architecture, and how many pixels and images a step can hold.
        iterations: the length of the training; None chooses it by the number of images.
        evaluations: during it, where there is something to evaluate on; None: ten.
    """
    before = settings_of(base)
    settings, lines = decisions.fit_input(data.train, before)
    most = max(int(m.objects_an_image.max()) for m in (data.train, data.val) if m is not None)
    lines += decisions.anchor_lines(data.train, settings) + decisions.count_lines(most, base)
    of_images = decisions.image_lines(data.train, data.classes, base)
    filtered = {line.key: line.value for line in of_images}.get(
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", before.filter_empty
    )
    images = data.train.images - (data.train.empty_images if filtered else 0)
    of_pixels = [np.median(s.test_scales(data.train.images_hw) ** 2) for s in (before, settings)]
    batch = decisions.batch_lines(images, float(of_pixels[0] / of_pixels[1]), base)
    length = decisions.schedule_lines(images, batch[0].value, base.SOLVER.WARMUP_ITERS, iterations)
    if base.SOLVER.EPOCHS:
        length.append(Line("SOLVER.EPOCHS", 0.0, "MAX_ITER says how long, not the base's EPOCHS."))
    if data.val is not None:
        times = evaluations or decisions.EVALUATIONS
        length += decisions.evaluation_lines(length[0].value, times, base.MODEL.MASK_ON)
    return [*lines, *of_images, *batch, *length]
