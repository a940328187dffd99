"""The heat table of what moved."""

from __future__ import annotations

import pytest

from transfer_maskrcnn.report.tables import drift_table, mean


def brightness(colour: str) -> int:
    return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_the_further_the_darker() -> None:
    distances = [0.0, 0.0005, 0.005, 0.05, 0.5]
    table = drift_table({str(i): {"part": value} for i, value in enumerate(distances)})
    assert table is not None
    shades = [brightness(cell.colour) for cell in table.rows[0][1]]
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == shades[1] == 3 * 255  # what moves less than the scale begins stays white
    assert len(set(shades)) == 4


def test_shades_end_where_the_scale_ends() -> None:
    table = drift_table({"a": {"part": 1.0}, "b": {"part": 50.0}})
    assert table is not None
    one, fifty = table.rows[0][1]
    assert one.colour == fifty.colour
    assert brightness(one.colour) > 300  # dark text stays readable on it


def test_a_part_that_one_variant_lacks() -> None:
    table = drift_table({"a": {"roi_heads.mask_head": 0.1}, "b": {"backbone.fpn": None}})
    assert table is not None
    assert [(name, [cell.text for cell in cells]) for name, cells in table.rows] == [
        ("FPN", ["–", "–"]),
        ("mask head", ["10 %", "–"]),
    ]


def test_nothing_known_no_table() -> None:
    assert drift_table({"a": {}}) is None


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, None, 2.0], 1.5), ([None], None), ([], None)]
)
def test_mean(values: list[float | None], expected: float | None) -> None:
    assert mean(values) == expected
