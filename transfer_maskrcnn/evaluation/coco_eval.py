"""COCO's average precision of boxes and masks: IoUs from pycocotools, all else compiled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pycocotools.mask as mask_util
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from faster_coco_eval import COCO as Index  # type: ignore[import-untyped]
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO

from transfer_maskrcnn.errors import DatasetError

Record = dict[str, Any]


def evaluate_detections(
    truth: COCO,
    results: Sequence[Record],
    iou_type: str,
    max_dets: Sequence[int],
    image_ids: Collection[Any] | None = None,
) -> COCOevalMaxDets:
    """What pycocotools' COCOeval finds, in a fraction of its time; prints its summary.

    ``eval["precision"]`` may differ from pycocotools' by 2.2e-16, which that adds to the number of
    detections before it divides; recall does not differ.

    Args:
        truth: the ground truth; stays as it is.
        results: COCO results of at least one detection: "bbox" as XYWH in pixels of the image, and
            for "segm" a compressed RLE under "segmentation". They stay as they are.
        iou_type: "bbox" or "segm".
        max_dets: three limits of detections an image and category, as ``params.maxDets``.
        image_ids: images to look at; None for all.

    Returns:
        COCOeval after ``summarize``: ``stats`` of 12 numbers (0 to 1, or -1 where there is nothing
        to find), ``eval`` with precision (T, R, K, A, M) and recall (T, K, A, M).

    Raises:
        DatasetError: results of images that the ground truth does not have.
    """
    # Any kind of id will do; the order of images decides among equal scores.
    numbers = {image: number for number, image in enumerate(sorted(truth.getImgIds()))}
    strangers = {r["image_id"] for r in results} - numbers.keys()
    if strangers:
        raise DatasetError(
            f"results of images {sorted(strangers, key=str)[:5]}, {len(strangers)} in all, that "
            "the ground truth does not have; evaluate on the data set that the detections are of"
        )
    matching = _Matching(truth, results, iou_type, numbers)
    matching.params.maxDets = list(max_dets)
    if image_ids is not None:
        matching.params.imgIds = [numbers[image] for image in image_ids]
    matching.evaluate()
    matching.accumulate()
    # Its own summary has other lines than the one that logs have had so far.
    summary = COCOevalMaxDets(iouType=iou_type)
    summary.params.maxDets = matching.params.maxDets
    summary.eval = matching.eval
    summary.summarize()
    return summary


class _Matching(COCOeval_faster):
    """Gets areas and scores for every detection, and shapes where there is something to match."""

    def __init__(
        self,
        truth: COCO,
        results: Sequence[Record],
        iou_type: str,
        numbers: Mapping[Any, int],
    ):
        self._truth = truth
        self._shape_key = "bbox" if iou_type == "bbox" else "segmentation"
        self._objects: dict[tuple[int, int], list[Record]] = defaultdict(list)
        self._detections: dict[tuple[int, int], list[Record]] = defaultdict(list)
        annotations = truth.dataset["annotations"]
        for one, shapes in ((annotations, self._objects), (results, self._detections)):
            for record in one:
                shapes[numbers[record["image_id"]], record["category_id"]].append(record)
        areas = _areas(results, iou_type)
        # As "bbox" always: for "segm" it would parse the masks of all detections.
        super().__init__(
            _index(truth, annotations, [a["area"] for a in annotations], numbers),
            _index(truth, results, areas, numbers),
            "bbox",
        )

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """(detections, score descending; ground truths) IoUs."""
        objects = self._objects.get((imgId, catId), [])
        detections = self._detections.get((imgId, catId), [])
        if not objects or not detections:
            return []
        best = sorted(detections, key=lambda d: -d["score"])[: self.params.maxDets[-1]]
        return mask_util.iou(
            [d[self._shape_key] for d in best],
            [self._shape(o) for o in objects],
            [int(o["iscrowd"]) for o in objects],
        )

    def _shape(self, annotation: Record) -> Any:
        if self._shape_key == "bbox":
            return annotation["bbox"]
        return self._truth.annToRLE(annotation)


def _areas(results: Sequence[Record], iou_type: str) -> list[float]:
    if iou_type == "bbox":
        return [r["bbox"][2] * r["bbox"][3] for r in results]
    return [int(mask_util.area(r["segmentation"])) for r in results]


def _index(
    truth: COCO,
    records: Sequence[Record],
    areas: Sequence[float],
    numbers: Mapping[Any, int],
) -> Index:
    annotations = [
        {
            "id": place,  # 0 would say "not matched"
            "image_id": numbers[record["image_id"]],
            "category_id": record["category_id"],
            "area": area,
            "iscrowd": record.get("iscrowd", 0),
            "score": record.get("score", 0.0),
        }
        for place, (record, area) in enumerate(zip(records, areas, strict=True), start=1)
    ]
    return Index(
        {
            "images": [{"id": number} for number in numbers.values()],
            "categories": [{"id": category} for category in truth.getCatIds()],
            "annotations": annotations,
        }
    )
