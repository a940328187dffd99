from typing import Any

import pytest

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.names import align, class_axes, group_of, parse_keep, part_of, under

ROI = "roi_heads"
# name, part, line of the table
NAMES = [
    ("backbone.bottom_up.stem.conv1.weight", "backbone", "backbone.bottom_up.stem"),
    ("backbone.bottom_up.res4.0.conv1.norm.bias", "backbone", "backbone.bottom_up.res4"),
    # zoo backbones have no prefix, C4 detectors no bottom_up
    ("res2.0.shortcut.weight", "backbone", "res2"),
    ("backbone.res4.5.conv3.weight", "backbone", "backbone.res4"),
    # C4's last stage is the backbone's, wherever it stands
    (f"{ROI}.res5.0.conv1.weight", "backbone", f"{ROI}.res5"),
    ("backbone.fpn_lateral2.weight", "FPN", "backbone.fpn"),
    ("backbone.fpn_output5.norm.weight", "FPN", "backbone.fpn"),
    ("fpn_output3.bias", "FPN", "fpn"),
    ("backbone.top_block.p6.weight", "FPN", "backbone.top_block.p6"),
    ("proposal_generator.rpn_head.conv.weight", "RPN", "proposal_generator.rpn_head"),
    # anchors have no class
    ("proposal_generator.rpn_head.anchor_deltas.bias", "RPN", "proposal_generator.rpn_head"),
    (f"{ROI}.box_head.fc1.weight", "box head", f"{ROI}.box_head"),
    (f"{ROI}.box_head.2.fc1.weight", "box head", f"{ROI}.box_head.2"),
    (f"{ROI}.box_predictor.cls_score.weight", "predictors", f"{ROI}.box_predictor.cls_score"),
    (f"{ROI}.box_predictor.1.bbox_pred.bias", "predictors", f"{ROI}.box_predictor.1.bbox_pred"),
    ("cls_score.weight", "predictors", "cls_score"),
    (f"{ROI}.mask_head.mask_fcn1.weight", "mask head", f"{ROI}.mask_head"),
    (f"{ROI}.mask_head.predictor.weight", "predictors", f"{ROI}.mask_head.predictor"),
    (f"{ROI}.mask_head.point_head.fc1.weight", "mask head", f"{ROI}.mask_head"),
    (
        f"{ROI}.mask_head.point_head.predictor.bias",
        "predictors",
        f"{ROI}.mask_head.point_head.predictor",
    ),
    (
        f"{ROI}.mask_head.coarse_head.prediction.bias",
        "predictors",
        f"{ROI}.mask_head.coarse_head.prediction",
    ),
    # 17 keypoints, not 80 classes
    (f"{ROI}.keypoint_head.score_lowres.weight", "keypoint head", f"{ROI}.keypoint_head"),
    ("sem_seg_head.predictor.weight", "predictors", "sem_seg_head.predictor"),
    # the configuration's, in old checkpoints
    ("pixel_mean", "settings", "pixel_mean"),
    ("proposal_generator.anchor_generator.cell_anchors.0", "settings", None),
    # ImageNet's classifier, somebody's own layer
    ("fc1000.weight", "rest", "fc1000"),
    ("my_head.layer.weight", "rest", "my_head.layer"),
]


@pytest.mark.parametrize(("name", "part", "group"), NAMES)
def test_what_a_tensor_is(name: str, part: str, group: str | None) -> None:
    assert part_of(name) == part
    assert group is None or group_of(name) == group


AXES = [
    # K + 1 scores, background last; 4 K boxes; K masks
    ("cls_score.bias", (81,), (4,), [(0, 0, 1, 1)]),
    ("bbox_pred.weight", (320, 2), (12, 2), [(0, 0, 4, 0)]),
    ("mask_head.predictor.weight", (80, 2, 1, 1), (3, 2, 1, 1), [(0, 0, 1, 0)]),
    # class-agnostic on both sides, on one
    ("bbox_pred.weight", (4, 2), (4, 2), []),
    ("bbox_pred.weight", (4, 2), (12, 2), None),
    ("mask_head.predictor.bias", (1,), (1,), []),
    ("mask_head.predictor.bias", (80,), (1,), None),
    # PointRend: 7 x 7 numbers a class; columns that read coarse masks, in the first layer always
    ("mask_head.coarse_head.prediction.bias", (80 * 49,), (3 * 49,), [(0, 0, 49, 0)]),
    ("mask_head.point_head.fc1.weight", (8, 86, 1), (8, 9, 1), [(1, 6, 1, 0)]),
    (
        "mask_head.point_head.predictor.weight",
        (80, 88, 1),
        (3, 11, 1),
        [(0, 0, 1, 0), (1, 8, 1, 0)],
    ),
    ("mask_head.point_head.predictor.weight", (80, 8, 1), (3, 8, 1), [(0, 0, 1, 0)]),
    ("mask_head.point_head.fc2.bias", (8,), (8,), []),
    # other channels, other ranks, nothing at all
    ("cls_score.weight", (81, 2), (4, 3), None),
    ("cls_score.weight", (81,), (4, 3), None),
    ("bbox_pred.bias", (), (), None),
]


@pytest.mark.parametrize(("name", "source", "target", "expected"), AXES)
def test_where_classes_lie(
    name: str, source: tuple, target: tuple, expected: list[tuple] | None
) -> None:
    """From 80 classes to 3; PointRend's layers have 8 channels."""
    axes = class_axes(f"roi_heads.{name}", source, target, (80, 3), 8)
    found = axes and [(a.axis, a.before, a.per_class, a.after) for a in axes]
    assert (None if axes is None else list(found or ())) == expected


# keep as written, as understood
KEEPS = [
    ("class_rows", "class_rows"),
    (["class_rows"], "class_rows"),
    ("backbone.bottom_up,proposal_generator", ("backbone.bottom_up", "proposal_generator")),
    (["backbone.bottom_up."], ("backbone.bottom_up",)),
    ("backbone.fpn_", ("backbone.fpn_",)),
    ("", ()),
]


@pytest.mark.parametrize(("written", "understood"), KEEPS)
def test_parse_keep(written: str | list[str], understood: str | tuple[str, ...]) -> None:
    assert parse_keep(written) == understood


# a prefix ends at a dot, unless it is written to end in the middle of a name
UNDER = [
    ("backbone.fpn_lateral2.weight", "backbone", True),
    ("backbone.fpn_lateral2.weight", "backbone.fpn_", True),
    ("backbone.fpn_lateral2.weight", "backbone.fpn", False),
    ("backbone2.weight", "backbone", False),
    ("pixel_mean", "pixel_mean", True),
]


@pytest.mark.parametrize(("name", "prefix", "expected"), UNDER)
def test_under(name: str, prefix: str, expected: bool) -> None:
    assert under(name, prefix) is expected


# source names, target names, pairs, source names that fit several places
ALIGN = [
    # equal names first
    (["a.w", "w"], ["a.w"], {"a.w": "a.w"}, set()),
    # the end of a name, at a dot
    (["res2.w"], ["backbone.bottom_up.res2.w"], {"backbone.bottom_up.res2.w": "res2.w"}, set()),
    (["es2.w"], ["backbone.res2.w"], {}, set()),
    # the longest end wins
    (["c.w", "b.c.w"], ["a.b.c.w"], {"a.b.c.w": "b.c.w"}, set()),
    # an end that fits twice is no end at all
    (["conv1.w"], ["a.conv1.w", "b.conv1.w"], {}, {"conv1.w"}),
    # the same place in a backbone that is nested elsewhere
    (
        ["backbone.res5.0.w"],
        ["roi_heads.res5.0.w"],
        {"roi_heads.res5.0.w": "backbone.res5.0.w"},
        set(),
    ),
    # but not where a backbone's place exists twice
    (["backbone.res5.0.w"], ["a.res5.0.w", "b.res5.0.w"], {}, set()),
]


@pytest.mark.parametrize(("source", "target", "pairs", "ambiguous"), ALIGN)
def test_align(
    source: list[str], target: list[str], pairs: dict[str, str], ambiguous: set[str]
) -> None:
    assert align(source, target) == (pairs, ambiguous)


@pytest.mark.parametrize("keep", [3, None, {"backbone": 1}])
def test_what_is_kept_is_named_by_text(keep: Any) -> None:
    with pytest.raises(ConfigError, match=r"keep is .*all_but_predictors"):
        parse_keep(keep)
