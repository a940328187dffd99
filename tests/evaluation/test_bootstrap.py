"""AP of a resample is pycocotools' AP of a data set in which the images really are repeated."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.evaluation import bootstrap
from transfer_maskrcnn.evaluation.bootstrap import (
    average_precision,
    bootstrap_ap,
    interval,
    resample,
)
from transfer_maskrcnn.evaluation.matches import Matches, match_detections

SIDE = 100


def box(rng: np.random.Generator) -> list[float]:
    x, y = rng.uniform(0, SIDE - 41, 2)
    width, height = rng.uniform(8, 40, 2)
    return [float(v) for v in (x, y, width, height)]


def random_truth(rng: np.random.Generator, images: int, classes: int) -> dict[str, Any]:
    """Few objects, so that some images have none and resamples lose whole classes; some crowds."""
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(rng.integers(0, 5)):
            bbox = box(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * image,
                    "category_id": int(rng.integers(1, classes + 1)),
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return {
        "images": [{"id": 7 * i, "height": SIDE, "width": SIDE} for i in range(images)],
        # one class more than there is ground truth for
        "categories": [{"id": k, "name": str(k)} for k in range(1, classes + 2)],
        "annotations": annotations,
    }


def random_results(rng: np.random.Generator, truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Shaken ground truth, each found twice, and boxes anywhere, in images without objects too."""
    found = [
        {**a, "bbox": [v + float(rng.normal(0, 2)) for v in a["bbox"]]}
        for a in truth["annotations"] * 2
    ]
    found += [
        {"image_id": image["id"], "category_id": category["id"], "bbox": box(rng)}
        for image in truth["images"]
        for category in truth["categories"]
        for _ in range(2)
    ]
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: d[k] for k in keys}, "score": float(rng.random())} for d in found]


def repeated(records: list[dict[str, Any]], key: str, weights: np.ndarray) -> list[dict[str, Any]]:
    """The records of image i, ``weights[i]`` times, each copy of it as an image of its own."""
    return [
        {**record, key: 1000 * record[key] + copy}
        for record in records
        for copy in range(weights[record[key] // 7])
    ]


def official_ap(
    truth: dict[str, Any], results: list[dict[str, Any]], weights: np.ndarray
) -> tuple[float, float]:
    """Of the data set with the images really repeated: AP, and the share of classes that count."""
    reference = COCO()
    reference.dataset = {
        "images": repeated(truth["images"], "id", weights),
        "categories": truth["categories"],
        "annotations": [
            {**a, "id": number}
            for number, a in enumerate(repeated(truth["annotations"], "image_id", weights), 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        found = reference.loadRes(repeated(results, "image_id", weights))
        evaluation = COCOeval(reference, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    known = precision > -1
    return (100 * precision[known].mean() if known.any() else np.nan), known.mean()


def matched(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> Matches:
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return match_detections(folder / "truth.json", folder / "results.json", "bbox")


def synthetic(images: int, classes: int, detections: int) -> Matches:
    rng = np.random.default_rng(0)
    matched = np.sort(rng.random((10, detections)) < 0.05, axis=0)
    return Matches(
        iou_type="segm",
        ground_truth="",
        image_ids=np.arange(images),
        category_ids=np.arange(classes),
        iou_thresholds=np.linspace(0.5, 0.95, 10),
        objects=rng.integers(5, 15, (classes, images)),
        category=np.sort(rng.integers(0, classes, detections)),
        image=rng.integers(0, images, detections),
        score=np.linspace(1, 0, detections),
        matched=matched,
        ignored=np.zeros_like(matched),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_replicate_is_the_ap_of_really_repeated_images(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=9, classes=3)
    results = random_results(rng, truth)
    matches = matched(tmp_path, truth, results)
    weights = np.concatenate([np.ones((1, 9), dtype=int), resample(9, 12, seed)])
    official = [official_ap(truth, results, w) for w in weights]
    assert bootstrap_ap(matches, weights) == pytest.approx([ap for ap, _ in official], abs=1e-9)
    assert average_precision(matches) == pytest.approx(official[0][0], abs=1e-9)


def test_a_class_that_the_resample_lost_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(rng, images=4, classes=3)
    results = random_results(rng, truth)
    matches = matched(tmp_path, truth, results)
    weights = 4 * np.eye(4, dtype=int)
    official = [official_ap(truth, results, w) for w in weights]
    assert len({share for _, share in official}) > 1, "some resamples have fewer classes"
    assert bootstrap_ap(matches, weights) == pytest.approx(
        [ap for ap, _ in official], abs=1e-9, nan_ok=True
    )


def test_equal_scores_count_in_the_order_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    truth = random_truth(rng, images=6, classes=1)
    results = random_results(rng, truth)
    best: dict[int, dict[str, Any]] = {d["image_id"]: d for d in results}
    tied = [{**d, "score": 0.5} for d in best.values()][::-1]
    weights = resample(6, 12, 0)
    expected = [official_ap(truth, tied, w)[0] for w in weights]
    assert bootstrap_ap(matched(tmp_path, truth, tied), weights) == pytest.approx(
        expected, abs=1e-9
    )


def test_without_ground_truth_there_is_no_ap(tmp_path: Path) -> None:
    truth = random_truth(np.random.default_rng(0), images=3, classes=2)
    crowds = [{**a, "iscrowd": 1} for a in truth["annotations"]]
    results = random_results(np.random.default_rng(0), truth)
    for none_counts in ([], crowds):
        matches = matched(tmp_path, {**truth, "annotations": none_counts}, results)
        assert np.isnan(average_precision(matches))


def test_without_detections_ap_is_0(tmp_path: Path) -> None:
    truth = random_truth(np.random.default_rng(0), images=3, classes=2)
    assert bootstrap_ap(matched(tmp_path, truth, []), resample(3, 5, 0)).tolist() == [0] * 5


def test_a_part_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matches, weights = synthetic(images=8, classes=2, detections=60), resample(8, 50, 0)
    whole = bootstrap_ap(matches, weights)
    monkeypatch.setattr(bootstrap, "CELLS", 200)  # 7 replicates or so
    assert bootstrap_ap(matches, weights).tolist() == whole.tolist()
    assert len(set(whole.tolist())) > 10


@pytest.mark.parametrize(
    ("images", "classes", "detections"),
    [
        (40, 1, 8000),  # a small validation set, an untrained model that detects anything
        (96, 80, 3000),  # COCO's classes
    ],
)
def test_a_thousand_replicates_take_seconds(images: int, classes: int, detections: int) -> None:
    matches = synthetic(images, classes, detections)
    started = time.process_time()
    replicates = bootstrap_ap(matches, resample(images, 1000, 0))
    assert time.process_time() - started < 10
    assert replicates.std() > 0


def test_resample_draws_as_many_images_as_there_are() -> None:
    weights = resample(5, 4000, seed=3)
    assert weights.shape == (4000, 5)
    assert (weights.sum(axis=1) == 5).all()
    # A multinomial count of 5 draws from 5 images: mean 1, variance 5 * 1/5 * 4/5.
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert weights.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.08)
    assert (weights == resample(5, 4000, seed=3)).all()
    assert (weights != resample(5, 4000, seed=4)).any()


INTERVALS = [
    # values, 95 % interval
    (np.arange(1001.0), (25, 975)),
    (np.array([np.nan, *np.arange(1001.0), np.nan]), (25, 975)),  # resamples without ground truth
    (-np.arange(1001.0), (-975, -25)),  # differences of APs
    (np.array([np.nan, np.nan]), (np.nan, np.nan)),
    (np.array([4.0]), (4, 4)),
]


@pytest.mark.parametrize(("values", "expected"), INTERVALS)
def test_interval(values: np.ndarray, expected: tuple[float, float]) -> None:
    assert interval(values) == pytest.approx(expected, nan_ok=True)
