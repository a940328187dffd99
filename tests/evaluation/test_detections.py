"""Average precision, against pycocotools on scenes of every kind."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from typing import Any
from unittest import mock

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation import coco
from transfer_maskrcnn.evaluation.coco import evaluate_detections

HEIGHT, WIDTH = 120, 160
DEFAULT_LIMITS = [1, 10, 100]


def scene(
    seed: int,
    images: int = 12,
    classes: int = 3,
    objects: int = 5,
    detections: int = 8,
    crowds: float = 0.2,
    scores: int = 1000,
    grid: int = 1,
    segmentation: str = "polygon",
) -> tuple[COCO, list[dict[str, Any]]]:
    """A ground truth, and detections of which about half are near an object.

    Args:
        objects, detections: at most so many an image, and in some there are none.
        crowds: share of objects that are crowds.
        scores: how many different ones there are; few make ties.
        grid: corners are multiples of it; a coarse grid makes equal boxes, and equal IoUs.
        segmentation: of the ground truth: "polygon", "rle" or "counts", which is uncompressed.
    """
    rng = np.random.default_rng(seed)
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(images):
        of_image = []
        for _ in range(rng.integers(0, objects + 1)):
            category = int(rng.integers(1, classes)) * 7  # the last class has none
            box = random_box(rng, grid)
            of_image.append((category, box))
            truth.append(annotation(image, category, box, rng.random() < crowds, segmentation))
        for _ in range(rng.integers(0, detections + 1)):
            category, box = int(rng.integers(1, classes + 1)) * 7, random_box(rng, grid)
            if of_image and rng.random() < 0.6:
                category, near = of_image[rng.integers(len(of_image))]
                box = [v + grid * int(rng.integers(-2, 3)) for v in near[:2]] + near[2:]
            found.append(detection(image, category, box, int(rng.integers(scores)) / scores))
    return index(truth, images, [7 * (c + 1) for c in range(classes)]), found


def random_box(rng: np.random.Generator, grid: int) -> list[int]:
    """XYWH within the image; every third is at the border of small and medium, or of large."""
    sizes = [(32, 32), (96, 96), (int(rng.integers(4, 100)), int(rng.integers(4, 100)))]
    width, height = sizes[rng.integers(3)]
    x, y = rng.integers(0, WIDTH - width + 1), rng.integers(0, HEIGHT - height + 1)
    return [int(v) // grid * grid for v in (x, y)] + [width, height]


def annotation(
    image: int, category: int, box: list[int], crowd: bool, segmentation: str
) -> dict[str, Any]:
    shape: Any = rle_of(box)
    if crowd or segmentation == "counts":
        flat = mask_util.decode(shape).ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        shape["counts"] = np.diff([0, *edges, flat.size]).tolist()
    elif segmentation == "polygon":
        x, y, w, h = box
        shape = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": shape,
        "area": float(box[2] * box[3]),
        "iscrowd": int(crowd),
    }


def detection(image: int, category: int, box: list[int], score: float) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(v) for v in box],
        "score": score,
        "segmentation": rle_of(box),
    }


def rle_of(box: list[int]) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    x, y, w, h = box
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    rle: dict[str, Any] = mask_util.encode(mask)
    return {**rle, "counts": rle["counts"].decode()}


def index(truth: list[dict[str, Any]], images: int, categories: list[int]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in categories],
        "annotations": [{**a, "id": number} for number, a in enumerate(truth, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def assert_same(
    truth: COCO,
    found: list[dict[str, Any]],
    iou_type: str,
    limits: list[int] = DEFAULT_LIMITS,
    image_ids: list[Any] | None = None,
) -> np.ndarray:
    """The 12 figures, all curves, and the lines that are logged; returns the precisions."""
    before = copy.deepcopy((truth.dataset, found))
    with mock.patch.object(coco.logger, "info") as told:
        ours = evaluate_detections(truth.dataset, found, iou_type, limits, image_ids)
    assert (truth.dataset, found) == before
    with contextlib.redirect_stdout(io.StringIO()) as stock_table:
        stock = _evaluate_predictions_on_coco(
            *(truth, copy.deepcopy(found), iou_type),
            cocoeval_fn=COCOeval,
            max_dets_per_image=limits,
            img_ids=image_ids,
        )
    assert told.call_args.args[-1].splitlines() == stock_table.getvalue().splitlines()[-12:]
    for curves in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(ours.eval[curves], stock.eval[curves])
    np.testing.assert_array_equal(ours.stats, stock.stats)
    assert len(ours.stats) == 12
    precision: np.ndarray = ours.eval["precision"]
    return precision


SCENES: list[dict[str, Any]] = [
    {},
    {"crowds": 0.0},
    {"crowds": 1.0},  # nothing to find
    {"scores": 1},  # all detections are equally sure
    {"scores": 3, "grid": 16},  # ties in score and in IoU
    {"classes": 12, "images": 25},
    {"segmentation": "rle"},
    {"segmentation": "counts"},
    {"objects": 0},  # no object at all
    {"images": 3, "objects": 30, "detections": 400, "classes": 2},  # more than 100 of a class
]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("options", SCENES)
@pytest.mark.parametrize("seed", range(3))
def test_figures_and_curves(seed: int, options: dict[str, Any], iou_type: str) -> None:
    assert_same(*scene(seed, **options), iou_type)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    images=st.integers(1, 6),
    classes=st.integers(2, 4),
    crowds=st.sampled_from([0.0, 0.3]),
    scores=st.sampled_from([1, 4, 1000]),
    grid=st.sampled_from([1, 16]),
    iou_type=st.sampled_from(["bbox", "segm"]),
)
def test_any_scene(seed: int, iou_type: str, **options: Any) -> None:
    truth, found = scene(seed, **options)
    if found:
        assert_same(truth, found, iou_type)


@pytest.mark.parametrize("limits", [[1, 10, 400], [1, 10, 5], [1, 10, 1]])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_other_limits_of_detections(limits: list[int], iou_type: str) -> None:
    crowded = scene(4, images=3, objects=30, detections=400, classes=2)
    assert_same(*crowded, iou_type, limits)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_some_of_the_images(iou_type: str) -> None:
    assert_same(*scene(5), iou_type, image_ids=[7, 2, 3, 7])


@pytest.mark.parametrize("name", [str, lambda i: f"{i:03d}.jpg", lambda i: 2**60 + i])
def test_images_of_any_id(name: Any) -> None:
    truth, found = scene(6, scores=3)
    for records, key in ((truth.dataset["images"], "id"), (truth.dataset["annotations"], None)):
        for record in records:
            record[key or "image_id"] = name(record[key or "image_id"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    assert_same(truth, [{**d, "image_id": name(d["image_id"])} for d in found], "segm")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_without_hotcoco(iou_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails
    assert_same(*scene(7), iou_type)
    assert_same(*scene(5), iou_type, image_ids=[7, 2, 3, 7])


def test_a_class_without_objects_has_no_precision() -> None:
    precision = assert_same(*scene(0), "bbox")
    assert (precision[:, :, -1] == -1).all()
    assert (precision[:, :, 0] > -1).any()


def test_detections_of_an_image_that_is_not_there() -> None:
    truth, found = scene(0)
    for key in ("image_id", "category_id"):
        with pytest.raises(DatasetError, match=rf"results of {key[:-3]} 99, and 0 more"):
            evaluate_detections(truth.dataset, [{**found[0], key: 99}], "bbox", DEFAULT_LIMITS)
