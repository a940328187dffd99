"""Looks of variants, names in plots, and gaps in lines."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from matplotlib.artist import Artist

from transfer_maskrcnn.report.page import Picture
from transfer_maskrcnn.report.plots import (
    legend_above,
    line,
    looks,
    page_axes,
    page_picture,
    plain,
)


def test_every_variant_has_a_look_of_its_own() -> None:
    names = [str(i) for i in range(20)]
    found = looks(names)
    assert list(found) == names
    assert len({(look.colour, look.marker) for look in found.values()}) == 20
    assert len({look.colour for look in list(found.values())[:7]}) == 7
    assert len({look.marker for look in list(found.values())[:7]}) == 7


def test_a_look_depends_on_the_variants_before_alone() -> None:
    assert looks(["a", "b"])["b"] == looks(["a", "b", "c"])["b"]


@pytest.mark.parametrize(
    # as a formula, the first would be an error
    "name",
    ["$\\nonsense{$", "a_b^{c", "a\\b", "x" * 100],
    ids=["dollars", "tex", "backslash", "long"],
)
def test_any_name_can_be_drawn(name: str) -> None:
    figure, axes = page_axes()
    axes.set_title(plain(name))
    entries: list[tuple[str, Artist]] = [(plain(name), line(axes, [(0, 0), (1, 1)]))]
    legend_above(axes, entries)
    assert page_picture(figure, name).data.startswith(b"\x89PNG")


def test_entries_of_a_legend_may_have_the_same_name() -> None:
    _, axes = page_axes()
    legend_above(axes, [("a", line(axes, [(0, 0)])), ("a", line(axes, [(0, 1)]))])
    legend = axes.get_legend()
    assert legend is not None and len(legend.get_texts()) == 2


def test_undefined_values_leave_gaps() -> None:
    drawn = line(page_axes()[1], [(0, 1.0), (1, None)]).get_path().vertices
    assert drawn[0].tolist() == [0.0, 1.0] and math.isnan(drawn[1][1])


def test_picture_as_a_data_uri() -> None:
    assert Picture(b"\x00\x01", "png", "x").uri == "data:image/png;base64,AAE="


def test_a_page_picture_is_white_and_sharp_on_a_phone() -> None:
    figure, _ = page_axes()
    picture = page_picture(figure, "x")
    pixels = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels.shape[1] > 2 * 375
