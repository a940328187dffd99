"""Predictor: thresholds, channels, sizes, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from torch import nn

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.inference.predictor import Pixels, Predictor, class_thresholds

CLASSES = ["cat", "dog", "owl"]
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.PIXEL_STD", [58.0, 58.0, 58.0]),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_HEADS.NUM_CLASSES", len(CLASSES), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 10),
]


def tiny(*options: Any) -> nn.Module:
    """A detector with next to no channels, whose predictions are random but never alike."""
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.merge_from_list([*TINY, *options])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build_model(cfg)
        for name, tensor in model.state_dict().items():
            if "mask_head.predictor" in name or name.endswith("cls_score.weight"):
                tensor.copy_(torch.randn(tensor.shape) * 3)
    return model


def predictor(model: nn.Module, **options: Any) -> Predictor:
    return Predictor(model, CLASSES, shortest_side=64, longest_side=128, **options)


def images(*sizes: tuple[int, int]) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_detections_are_in_the_image_best_first() -> None:
    (found,) = predictor(tiny())(images((100, 150)))
    assert len(found) > 5
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for detection in found:
        x, y, width, height = detection.bbox
        assert 0 <= x <= x + width <= 150 + 1e-3
        assert 0 <= y <= y + height <= 100 + 1e-3
        assert detection.segmentation is not None
        assert detection.segmentation["size"] == [100, 150]
        assert isinstance(detection.segmentation["counts"], str)


def test_a_model_without_masks_has_boxes() -> None:
    (found,) = predictor(tiny("MODEL.MASK_ON", False))(images((64, 64)))
    assert found
    assert all(detection.segmentation is None for detection in found)


def test_batches_pad_no_image_further_than_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    shapes: list[tuple[int, ...]] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    # 64x96, 96x64, 64x96 and 64x90 for the model: the last is padded to 64x96 alone, too
    mixed = images((100, 150), (150, 100), (200, 300), (128, 180))
    together = predictor(model)(mixed)
    assert sorted(shapes) == [(1, 3, 96, 64), (3, 3, 64, 96)]
    hook.remove()
    for image, found in zip(mixed, together, strict=True):
        (alone,) = predictor(model)([image])
        assert [d.class_index for d in found] == [d.class_index for d in alone]
        assert np.allclose([d.bbox for d in found], [d.bbox for d in alone], atol=1e-2)
        assert np.allclose([d.score for d in found], [d.score for d in alone], atol=1e-4)


def test_nothing_in_nothing_out() -> None:
    assert predictor(tiny())([]) == []


def test_each_class_has_its_threshold() -> None:
    picture = images((96, 96))
    (everything,) = predictor(tiny())(picture)
    scores = {d.class_index: d.score for d in reversed(everything)}  # the best of each class
    best = max(scores, key=lambda index: scores[index])
    limits = [1.0] * 3
    limits[best] = scores[best] - 1e-4
    (found,) = predictor(tiny(), thresholds=limits)(picture)
    assert {d.class_index for d in found} == {best}
    assert all(d.score > limits[best] for d in found)


def test_the_model_gets_the_channels_it_knows() -> None:
    seen: list[torch.Tensor] = []
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:] = (10, 20, 30)
    for channels in ("BGR", "RGB"):
        item = predictor(tiny(), channels=channels)._model_input(picture)
        seen.append(item["image"][:, 0, 0])
    assert seen[0].tolist() == [10, 20, 30]
    assert seen[1].tolist() == [30, 20, 10]
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT is 'YUV-BT\.601'; expected BGR or RGB"):
        predictor(tiny(), channels="YUV-BT.601")


def test_the_model_is_in_eval_mode() -> None:
    model = tiny().train()
    predictor(model)
    assert not model.training


def test_thresholds_by_name() -> None:
    assert class_thresholds(CLASSES, 0.5, {"dog": 0.7, "cat": 0.0}) == [0.0, 0.7, 0.5]


WRONG: list[tuple[float, dict[str, float], str]] = [
    (0.5, {"dgo": 0.7}, r"--class-score dgo: .* it has cat, dog, owl; did you mean 'dog'\?"),
    (0.5, {"dog": 1.7}, r"a score of 1\.7 is asked for; expected one from 0 to 1"),
    (float("nan"), {}, r"a score of nan"),
]


@pytest.mark.parametrize(("score", "by_class", "message"), WRONG)
def test_thresholds_that_make_no_sense(
    score: float, by_class: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        class_thresholds(CLASSES, score, by_class)
