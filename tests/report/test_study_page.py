"""The page of a comparison shows what its files hold, and nothing for what they do not."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.study_page import write_study_report

Content = dict[str, Any]
Write = Callable[[Content], Path]


@pytest.fixture(scope="module")
def page(whole_study: Path) -> str:
    return write_study_report(whole_study).read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def text_of(page: str) -> str:
    """What a reader sees, with single spaces and without the variants' marks."""
    body = re.sub(r'<span class="glyph".*?</span>', "", page.partition("<body>")[2])
    body = re.sub(r"</?(span|code|b|wbr)\b[^>]*>", "", body)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_sections_in_order(page: str) -> None:
    assert sections(page) == [
        "Result",
        "AP against number of images",
        "Variants",
        "Comparisons",
        "AP of each class",
        "What moved",
        "What the models see",
        "How the variants differ",
        "Runs that did not finish",
        "How to repeat it",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "Why start from pre-trained weights? shapes_train, 48 images",
        "The weights are worth 20 AP.",
        "shapes_train: 12 or 48 images",
        "shapes_val: 100 images with 380 objects",
        "100 iterations of 8 images",
        "Seeds 0 and 1",
        "mask AP (COCO), from 0 to 100",
        "all_but_predictors everything but the predictors source.pth 99.9 %",
        "the backbone a/file.pkl 50.0 %",
        "from_scratch nothing: every weight starts at random none 0 %",
        # AP, interval, AP50, box AP, area, words, seconds, memory
        "30.0 29.0 to 31.0 60.0 31.0 15.0 way 0 98 1,520",
        "from_scratch’s final mask AP",
        "+20.0 −3.0 to +23.0 2 cannot tell",
        "The interval covers the choice of the seeds and that of the validation images. Where",
        'star 30.0 15.0 10.0 <b>"x"& 31.0 16.0 11.0',
        "backbone.bottom_up.res2 1.0 % 1.0 % 1.0 %",
        "Means over the seeds, 48 images.",
        "SOLVER.BASE_LR 0.01 0.01 0.02",
        "SEED 0",
        "from_scratch, 48 images, seed 1: diverged. the loss is nan: lower SOLVER.BASE_LR",
        "1 of 12 runs ended before their budget. Such a run counts as AP 0",
        "The area under the curve is the mean of mask AP over the iterations.",
        "python tools/compare_inits.py --seeds 2",
        "torch 2.14.1",
        "processor a processor",
    ],
)
def test_what_the_page_says(page: str, sentence: str) -> None:
    assert sentence in text_of(page)


def test_pictures(page: str) -> None:
    images = re.findall(r'<img src="data:image/(png|jpeg);base64,[^"]+" alt="([^"]*)"', page)
    assert len(images) == page.count("<img")
    kinds = [kind for kind, _ in images]
    assert kinds.count("png") == 5  # final AP and curves for each fraction, and AP against images
    assert kinds.count("jpeg") == 2 * 4  # two images; ground truth and three variants
    assert all(alt for _, alt in images)
    alts = [html.unescape(alt) for _, alt in images]
    assert "Image 1, all_but_predictors: star 0.90" in alts
    assert 'Image 2, ground truth: <b>"x"&' in alts
    assert "Image 1, from_scratch: nothing" in alts  # its scores are low


def test_size_and_safety(page: str) -> None:
    assert len(page) < 3_000_000
    assert "<script" not in page and '<b>"x"' not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page.replace("http-equiv", "")


def test_one_fraction_and_one_seed(study_json: Content, write_study: Write) -> None:
    for key in ("cells", "comparisons", "runs"):
        study_json[key] = [entry for entry in study_json[key] if entry["fraction"] == 1.0]
    study_json["comparisons"][0]["seeds"] = 1
    page = write_study_report(write_study(study_json)).read_text(encoding="utf-8")
    assert "AP against number of images" not in sections(page)
    shown = text_of(page)
    assert "With one seed the interval covers the choice of the validation images only" in shown
    assert "The interval covers the choice of the seeds" not in shown


def test_columns_without_data_are_left_out(study_json: Content, write_study: Write) -> None:
    for cell in study_json["cells"]:
        cell["reaches"] = None  # the reference learnt nothing worth reaching
    shown = text_of(write_study_report(write_study(study_json)).read_text(encoding="utf-8"))
    assert "area under the curve 48 images" in shown
    assert "from_scratch 10.0 9.0 to 11.0 20.0 11.0 5.0" in shown
    assert "from_scratch’s final mask AP" not in shown
    assert "seconds" not in shown


def test_pictures_of_a_smaller_fraction_where_the_largest_has_none(
    whole_study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole_study, folder)
    for run in (folder / "runs").glob("*_f1_*"):
        shutil.rmtree(run)
    shown = text_of(write_study_report(folder).read_text(encoding="utf-8"))
    assert "The first seed of every variant, 12 images." in shown


def test_images_that_moved_away(whole_study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole_study, folder)
    for path in folder.glob("runs/*/inference/*/*_ground_truth.json"):
        path.write_text(path.read_text().replace(str(whole_study), "/nowhere"))
    page = write_study_report(folder).read_text(encoding="utf-8")
    assert "What the models see" not in sections(page)
    assert "Result" in sections(page)


def test_damaged_predictions_are_named(whole_study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole_study, folder)
    next(folder.glob("runs/0_f1_s0/inference/*/coco_instances_results.json")).write_text("[{")
    page = write_study_report(folder).read_text(encoding="utf-8")
    assert "coco_instances_results.json cannot be read as JSON" in text_of(page)
    assert "Result" in sections(page) and "jpeg" not in page


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such file"):
        write_study_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
