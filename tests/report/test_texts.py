"""Numbers and names as a reader sees them."""

from __future__ import annotations

import pytest

from transfer_maskrcnn.report import texts


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (28.0, 1, False, "28.0"),  # AP always has its decimal
        (28.04999, 1, False, "28.0"),
        (-0.26, 1, False, "−0.3"),  # a minus sign, not a hyphen
        (-0.01, 1, False, "0.0"),  # never minus zero
        (0.0, 1, True, "0.0"),  # nor plus zero
        (3.2, 1, True, "+3.2"),
        (1234567.0, 0, False, "1,234,567"),
        (None, 1, True, "–"),  # undefined
    ],
)
def test_decimal(value: float | None, digits: int, sign: bool, text: str) -> None:
    assert texts.decimal(value, digits, sign) == text


@pytest.mark.parametrize(
    ("bounds", "sign", "text"),
    [
        ((25.1, 32.04), False, "25.1 to 32.0"),
        ((-1.0, 2.0), True, "−1.0 to +2.0"),
        (None, False, "–"),
    ],
)
def test_interval(bounds: tuple[float, float] | None, sign: bool, text: str) -> None:
    assert texts.interval(bounds, sign) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9996, "99.9 %"),  # not everything
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.055, "5.5 %"),
        (None, "–"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert texts.percent(share) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.01342, "1.3 %"),  # two digits
        (0.134, "13 %"),
        (12.5, "1,250 %"),
        (0.000123, "0.012 %"),
        (0.0, "0 %"),  # frozen
        (None, "–"),  # started at zero
    ],
)
def test_drift(share: float | None, text: str) -> None:
    assert texts.drift(share) == text


@pytest.mark.parametrize(
    ("items", "both", "one_of"),
    [
        ([0, 1, 2], "0, 1 and 2", "0, 1 or 2"),
        ([0, 1], "0 and 1", "0 or 1"),
        ([7], "7", "7"),
        ([], "", ""),
    ],
)
def test_lists(items: list[int], both: str, one_of: str) -> None:
    assert texts.listed(items) == both
    assert texts.either(items) == one_of


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 image"), (0, "0 images"), (1200, "1,200 images")]
)
def test_plural(number: int, text: str) -> None:
    assert texts.plural(number, "image") == text


def test_few_says_how_many_more() -> None:
    assert texts.few(["a", "b", "c"], 3) == "a, b, c"
    assert texts.few(["a", "b", "c"], 1) == "a and 2 more"


@pytest.mark.parametrize(
    ("name", "most", "text"),
    [
        ("all_but_predictors", 24, "all_but_predictors"),
        ("backbone@imagenet_halfwidth.pkl", 13, "backbo…th.pkl"),  # both ends tell variants apart
        ("abcd", 3, "a…d"),
    ],
)
def test_short(name: str, most: int, text: str) -> None:
    assert texts.short(name, most) == text
    assert len(texts.short(name, most)) <= most


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("segm/AP50", "mask AP50"),
        ("bbox/AP", "box AP"),
        ("keypoints/AP", "keypoint AP"),
        ("val_loss", "val_loss"),  # belongs to no task
    ],
)
def test_metric_name(metric: str, text: str) -> None:
    assert texts.metric_name(metric) == text


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("backbone.bottom_up.res2", "backbone res2"),
        ("backbone.bottom_up.stem.conv1.weight", "backbone stem"),
        ("backbone.fpn_lateral2.weight", "FPN"),
        ("backbone.fpn", "FPN"),
        ("backbone.net.blocks.0", "backbone"),  # a transformer has no stages
        ("roi_heads.res5", "backbone res5"),  # C4 keeps its last stage in the heads
        ("proposal_generator.rpn_head.conv.weight", "RPN"),
        ("roi_heads.box_head.fc1.weight", "box head"),
        ("roi_heads.box_predictor.cls_score", "class predictor"),
        ("roi_heads.box_predictor.bbox_pred.bias", "box predictor"),
        ("roi_heads.mask_head.predictor", "mask predictor"),
        ("roi_heads.mask_head", "mask head"),
        ("roi_heads.mask_head.mask_fcn1.weight", "mask head"),
        ("something.else", "something.else"),
    ],
)
def test_part_name(tensor: str, part: str) -> None:
    assert texts.part_name(tensor) == part


def test_parts_come_in_the_order_of_the_network() -> None:
    tensors = ["x.unknown", "roi_heads.mask_head", "backbone.fpn", "backbone.bottom_up.stem"]
    assert list(texts.named_parts(tensors).values()) == [
        "backbone stem",
        "FPN",
        "mask head",
        "x.unknown",
    ]


def test_parts_of_the_same_name_keep_their_own() -> None:
    stages = ["roi_heads.box_head.0", "roi_heads.box_head.1"]
    assert texts.named_parts([*stages, "backbone.fpn"]) == {
        "backbone.fpn": "FPN",
        stages[0]: stages[0],
        stages[1]: stages[1],
    }


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("all_but_predictors", ["all_", "but_", "predictors"]),
        ("backbone@a/b.pkl", ["backbone@", "a/", "b.", "pkl"]),
        ("plain", ["plain"]),
        ("ends_", ["ends_"]),
        ("", [""]),
    ],
)
def test_pieces(name: str, pieces: list[str]) -> None:
    assert texts.pieces(name) == pieces


@pytest.mark.parametrize(
    ("figure", "overall", "why"),
    [
        ("AP", None, "nothing detected"),
        ("AP50", None, "nothing detected"),  # detectron2 leaves all figures undefined together
        ("APs", 20.0, "no object of that size"),
        ("AP-star", 20.0, "no object of this class"),
        ("AP75", 20.0, "undefined"),
    ],
)
def test_why_undefined(figure: str, overall: float | None, why: str) -> None:
    assert texts.why_undefined(figure, {"AP": overall}) == why


def test_kept_puts_the_presets_in_words_and_leaves_prefixes() -> None:
    assert texts.kept("random_init").startswith("nothing")
    assert texts.kept("backbone.stem") == "backbone.stem"
