"""The plots of a comparison hold what the files say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from matplotlib.axes import Axes

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.plots import page_axes
from transfer_maskrcnn.report.study_page import Study, write_study_figure
from transfer_maskrcnn.report.study_plots import (
    curves_picture,
    draw_by_images,
    draw_curves,
    draw_final,
    draw_reference,
    final_picture,
    study_figure,
)

Content = dict[str, Any]
Read = Callable[[Content], Study]


@pytest.fixture
def read(write_study: Callable[[Content], Path]) -> Read:
    return lambda content: Study(write_study(content))


@pytest.fixture
def axes() -> Axes:
    return page_axes()[1]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_final_has_means_intervals_and_seeds(study_json: Content, read: Read, axes: Axes) -> None:
    draw_final(axes, read(study_json), 1.0)
    assert words(axes) == ["30.0", "15.0", "10.0"]
    data = [[float(x) for x in artist.get_xdata()] for artist in axes.lines]
    assert data[:3] == [[29.0, 31.0], [30.0], [29.5, 30.5]]
    assert data[-1] == [9.5]  # the other seed diverged
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first variant is on top


def test_final_axes_are_the_same_at_all_fractions(study_json: Content, read: Read) -> None:
    study = read(study_json)
    (_, small), (_, large) = page_axes(), page_axes()
    draw_final(small, study, 0.25)
    draw_final(large, study, 1.0)
    assert small.get_xlim() == large.get_xlim()
    assert large.get_xlim()[0] < 0 < 31 < large.get_xlim()[1]


def test_final_of_close_variants_is_shown_near(study_json: Content, read: Read, axes: Axes) -> None:
    for cell in study_json["cells"]:
        cell["mean"], cell["interval"] = 60.0, [58.0, 62.0]
    draw_final(axes, read({**study_json, "runs": []}), 1.0)
    assert axes.get_xlim()[0] > 50


def test_curves_with_bands(study_json: Content, read: Read, axes: Axes) -> None:
    entries = draw_curves(axes, read(study_json), 1.0)
    assert [name for name, _ in entries] == [
        "all_but_predictors",
        "backbone@a_...g_name.pkl",
        "from_scratch",
    ]
    assert axes.lines[0].get_ydata().tolist() == [0.0, 15.0, 30.0]
    assert len(axes.collections) == 3
    assert axes.get_ylim()[0] == 0


def test_the_level_to_reach_is_a_line(study_json: Content, read: Read, axes: Axes) -> None:
    ((name, _),) = draw_reference(axes, read(study_json), 1.0)
    assert name == "final from_scratch"
    assert axes.lines[0].get_ydata() == [10.0, 10.0]
    for cell in study_json["cells"]:
        cell["reaches"] = None
    assert draw_reference(axes, read(study_json), 1.0) == []


def test_against_images(study_json: Content, read: Read, axes: Axes) -> None:
    draw_by_images(axes, read(study_json))
    assert axes.lines[0].get_xdata().tolist() == [12, 48]
    assert axes.lines[0].get_ydata().tolist() == [7.5, 30.0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["12", "48"]


def test_pictures_are_told_in_words(study_json: Content, read: Read) -> None:
    study = read(study_json)
    assert "all_but_predictors 30.0 (29.0 to 31.0)" in final_picture(study, 1.0).alt
    assert "from_scratch from 0.0 to 10.0" in curves_picture(study, 1.0).alt
    assert final_picture(study, 0.25).caption == "Final mask AP, 12 images"


def test_figure_for_a_readme(
    study_json: Content, write_study: Callable[[Content], Path], tmp_path: Path
) -> None:
    output = tmp_path / "figure.png"
    write_study_figure(write_study(study_json), output)
    picture = cv2.imread(str(output))
    assert picture is not None
    assert picture.shape[1] == 1200 and 300 < picture.shape[0] < 900
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_figure_has_a_third_panel_for_several_fractions(study_json: Content, read: Read) -> None:
    titles = [axes.get_title(loc="left") for axes in study_figure(read(study_json)).axes]
    assert titles == [
        "Final mask AP, 48 images",
        "During training, 48 images",
        "Against the number of images",
    ]
    study_json["cells"] = [cell for cell in study_json["cells"] if cell["fraction"] == 1.0]
    assert len(study_figure(read(study_json)).axes) == 2


def test_figure_of_no_study(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such file"):
        write_study_figure(tmp_path, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
