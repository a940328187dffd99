"""Numbers and names as a reader sees them."""

from __future__ import annotations

import pytest

from transfer_maskrcnn.report import page as texts
from transfer_maskrcnn.report.page import drift_table, mean


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
        ((1.0, None), False, "–"),
    ],
)
def test_interval(bounds: tuple[float, float | None] | None, sign: bool, text: str) -> None:
    assert texts.interval(bounds, sign) == text


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


def test_either() -> None:
    assert [texts.either(range(n)) for n in (0, 1, 2, 3)] == ["", "0", "0 or 1", "0, 1 or 2"]


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
def test_why_ap_is_undefined(figure: str, overall: float | None, why: str) -> None:
    assert texts.ap_text(figure, {figure: None, "AP": overall}) == why
    assert texts.ap_text(figure, {figure: 3, "AP": overall or 3}) in ("3.0", "20.0")


def test_kept_puts_the_presets_in_words_and_leaves_prefixes() -> None:
    assert texts.kept("random_init").startswith("nothing")
    assert texts.kept("backbone.stem") == "backbone.stem"


def test_the_further_the_deeper() -> None:
    distances = [0.0, 0.0005, 0.005, 0.05, 0.5]
    table = drift_table({str(i): {"part": value} for i, value in enumerate(distances)})
    assert table is not None
    depths = [cell.depth for cell in table["rows"][0][1]]
    assert depths == sorted(depths)
    assert depths[0] == depths[1] == 0  # what moves less than the scale begins has no colour
    assert len(set(depths)) == 4


def test_shades_end_where_the_scale_ends() -> None:
    table = drift_table({"a": {"part": 1.0}, "b": {"part": 50.0}})
    assert table is not None
    one, fifty = table["rows"][0][1]
    assert one.depth == fifty.depth == 1


def test_a_part_that_one_variant_lacks() -> None:
    table = drift_table({"a": {"roi_heads.mask_head": 0.1}, "b": {"backbone.fpn": None}})
    assert table is not None
    assert [(name, [cell.text for cell in cells]) for name, cells in table["rows"]] == [
        ("roi_heads.mask_head", ["10 %", "–"]),
        ("backbone.fpn", ["–", "–"]),
    ]


def test_nothing_known_no_table() -> None:
    assert drift_table({"a": {}}) is None
    assert drift_table({"a": {"roi_heads": None}}) is None  # all was initialised


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, None, 2.0], 1.5), ([None], None), ([], None)]
)
def test_mean(values: list[float | None], expected: float | None) -> None:
    assert mean(values) == expected
