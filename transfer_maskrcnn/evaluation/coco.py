"""COCO AP for every registered dataset, whatever format its annotations came in."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets, instances_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from torch import Tensor

from transfer_maskrcnn.compat import evaluate_keypoints
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.evaluation.explain.causes import PROPOSALS_FILE
from transfer_maskrcnn.evaluation.explain.tide import FOREGROUND, SIZES, in_size
from transfer_maskrcnn.evaluation.inference import PROPOSAL_LIMITS, EncodedMasks
from transfer_maskrcnn.evaluation.matches import evaluate
from transfer_maskrcnn.files import write_json, write_text

logger = logging.getLogger(__name__)


def ground_truth(dataset_name: str) -> dict[str, Any]:
    """The dataset as loaded, as a COCO json. ``area``, which decides what counts as small, medium
    or large, is the annotation file's own where it states a credible one; so are boxes, which
    detectron2's converter would round to three decimals."""
    content: dict[str, Any] = convert_to_coco_dict(dataset_name)
    annotations = (a for d in DatasetCatalog.get(dataset_name) for a in d.get("annotations", ()))
    for written, annotation in zip(content.get("annotations", ()), annotations, strict=True):
        written["area"] = annotation.get("area", written["area"])
        box = [float(value) for value in annotation["bbox"]]
        if annotation["bbox_mode"] == BoxMode.XYXY_ABS:
            box[2:] = [_side(*ends) for ends in zip(box[:2], box[2:], strict=True)]
        written["bbox"] = box
    return content


def _side(low: float, high: float) -> float:
    """The side that a file stated which has ``high = low + side``: of those, it has few digits."""
    side = round(high - low, 9)
    return side if low + side == high else high - low


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator against the dataset dicts as loaded.

    The ground truth is written afresh from the dicts, so it holds just what training would see:
    stock COCOEvaluator reads ``json_file`` instead, which counts left-out images and instances as
    missed, or an ``*_coco_format.json`` that an earlier run left in the folder, however old.

    Boxes and masks are evaluated by :func:`evaluate_detections`, many times faster. Masks may
    come as tensors or, from FastInference, as :class:`EncodedMasks`; the results are the same.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str,
        *,
        class_places: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            dataset_name: a name in DatasetCatalog.
            output_dir: gets ``<name>_ground_truth.json`` and COCO results of the predictions.
            class_places: the model's number of each of the dataset's classes; None: the same.
                Predictions of the model's other classes are left out: the dataset cannot tell
                whether they are right.
            **kwargs: COCOEvaluator's own arguments; ``use_fast_impl`` has no effect.
        """
        os.makedirs(output_dir, exist_ok=True)
        json_file = os.path.join(output_dir, f"{dataset_name}_ground_truth.json")
        write_text(json_file, json.dumps(ground_truth(dataset_name)))
        loaded = MetadataCatalog.get(dataset_name)
        # COCOEvaluator finds the json through an entry of the catalog: one for this moment, which
        # leaves the dataset's own as it is.
        passing = f"{dataset_name}@{os.path.abspath(json_file)}"
        MetadataCatalog.get(passing).set(
            json_file=json_file,
            thing_classes=loaded.thing_classes,
            thing_dataset_id_to_contiguous_id=loaded.get(
                "thing_dataset_id_to_contiguous_id",
                {i: i for i in range(len(loaded.thing_classes))},
            ),
        )
        # Its fast implementation, left on, would log that evaluation falls back to a slow one.
        super().__init__(passing, output_dir=output_dir, **{**kwargs, "use_fast_impl": False})
        MetadataCatalog.remove(passing)
        self._class_places = class_places

    def reset(self) -> None:
        super().reset()
        self._proposed: list[tuple[float, ...]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """As COCOEvaluator's, for ``instances`` with masks of either kind."""
        for image, output in zip(inputs, outputs, strict=True):
            name = image["image_id"]
            if "proposal_boxes" in output:
                self._proposed += proposed(output["proposal_boxes"], self._coco_api.imgToAnns[name])
            self._predictions.append(
                {"image_id": name, "instances": coco_results(output["instances"], name)}
            )

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> Any:
        """As COCOEvaluator's; the main process also writes ``proposals.json``."""
        rows = comm.gather(self._proposed) if self._distributed else [self._proposed]
        if not self._distributed or comm.is_main_process():
            write_recall(list(chain.from_iterable(rows)), self._output_dir)
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Sequence[Any] | None = None
    ) -> None:
        """Write the results as COCO json, and fill ``_results`` with the figures of each task."""
        results = list(chain.from_iterable(p["instances"] for p in predictions))
        tasks = self._tasks or self._tasks_from_predictions(results)
        results = self._of_dataset(results)
        write_text(Path(self._output_dir, "coco_instances_results.json"), json.dumps(results))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        limits, names = self._max_dets_per_image, self._metadata.get("thing_classes")
        for task in sorted(tasks):
            evaluation = None  # COCO's code fails where there is nothing at all
            if results and task == "keypoints":
                evaluation = evaluate_keypoints(
                    self._coco_api,
                    results,
                    task,
                    kpt_oks_sigmas=self._kpt_oks_sigmas,
                    img_ids=img_ids,
                    max_dets_per_image=limits,
                )
            elif results:
                evaluation = evaluate_detections(
                    self._coco_api.dataset, results, task, limits, img_ids
                )
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)

    def _of_dataset(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the dataset's classes, with its category ids instead of the model's classes."""
        numbers = self._metadata.thing_dataset_id_to_contiguous_id
        places = self._class_places
        by_class = {i if places is None else places[i]: c for c, i in numbers.items()}
        wrong = next((r for r in results if r["category_id"] not in by_class), None)
        if places is None and wrong is not None:
            raise DatasetError(
                f"a prediction of class {wrong['category_id']}, but the dataset has "
                f"{len(by_class)}, from 0 on; evaluate a model of the dataset's classes"
            )
        return [
            {**result, "category_id": by_class[result["category_id"]]}
            for result in results
            if result["category_id"] in by_class
        ]


def proposed(boxes: Tensor, objects: Iterable[dict[str, Any]]) -> list[tuple[float, ...]]:
    """How well the proposals of one image fit its objects.

    Args:
        boxes: (N, 4) XYXY proposals in pixels of the image, the best first.
        objects: its COCO annotations; crowds do not count.

    Returns:
        of each object: area, best IoU with the first 100 and with the first 1000 proposals, and how
        many there are.
    """
    wanted = [o for o in objects if not o.get("iscrowd", 0)]
    best = np.zeros((len(wanted), len(PROPOSAL_LIMITS)))
    if wanted and len(boxes):
        sides = boxes.numpy().astype(float)
        sides[:, 2:] -= sides[:, :2]
        true = np.array([o["bbox"] for o in wanted], dtype=float)
        iou = mask_util.iou(sides, true, [0] * len(wanted))
        best = np.stack([iou[:limit].max(axis=0) for limit in PROPOSAL_LIMITS], axis=1)
    return [(o["area"], *row, len(boxes)) for o, row in zip(wanted, best.tolist(), strict=True)]


def write_recall(rows: Sequence[tuple[float, ...]], folder: str | os.PathLike[str]) -> None:
    """Write ``proposals.json``: the recall with 100 and with 1000 proposals, of all objects and by
    size, null for a size without objects; and the median and largest number of proposals of an
    object's image. Without rows there is none, nor an older one."""
    path = Path(folder, PROPOSALS_FILE)
    path.unlink(missing_ok=True)
    if not rows:
        return
    area, *best, proposals = np.array(rows, dtype=float).T
    groups = {"all": in_size(area, None), **{size: in_size(area, size) for size in SIZES}}
    recall = {
        str(limit): {
            name: float((iou[members] >= FOREGROUND).mean()) if members.any() else None
            for name, members in groups.items()
        }
        for limit, iou in zip(PROPOSAL_LIMITS, best, strict=True)
    }
    write_json(
        path,
        {
            "iou": FOREGROUND,
            "objects": {name: int(members.sum()) for name, members in groups.items()},
            "proposals": {"median": float(np.median(proposals)), "most": int(proposals.max())},
            "recall": recall,
        },
    )


def evaluate_detections(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    max_dets: Sequence[int],
    image_ids: Iterable[Any] | None = None,
) -> COCOevalMaxDets:
    """What pycocotools' COCOeval finds, in a fraction of its time; logs its summary.

    Args:
        truth, results, iou_type, image_ids: as for :func:`evaluate`.
        max_dets: three limits of detections an image and category, as ``params.maxDets``.

    Returns:
        COCOeval after ``summarize``: ``stats`` of 12 numbers (0 to 1, or -1 where there is nothing
        to find), ``eval`` with precision (T, R, K, A, M) and recall (T, K, A, M).

    Raises:
        DatasetError: as there.
    """
    evaluation = evaluate(truth, results, iou_type, max_dets, image_ids=image_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools' progress
        evaluation.accumulate()
    # Its own summary has other lines than the one that logs have had so far.
    summary = COCOevalMaxDets(iouType=iou_type)
    summary.params.maxDets = sorted(max_dets)
    summary.eval = evaluation.eval
    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary.summarize()
    logger.info("%s:\n%s", iou_type, text.getvalue().rstrip())
    return summary


def coco_results(instances: Instances, image_id: Any) -> list[dict[str, Any]]:
    """The detections of one image as COCO results, ``category_id`` being the model's class.

    Masks may be tensors or :class:`EncodedMasks`, or there are none.
    """
    fields = dict(instances.get_fields())
    masks = fields.get("pred_masks")
    rles = fields.pop("pred_masks").rles if isinstance(masks, EncodedMasks) else []
    plain = Instances(instances.image_size, **fields).to("cpu")
    results: list[dict[str, Any]] = instances_to_coco_json(plain, image_id)
    for result, rle in zip(results, rles, strict=False):
        result["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    return results


def matched_tasks(cfg: CfgNode) -> tuple[str, ...]:
    """The IoU types of a model: boxes, and masks where it has them."""
    return ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)


def detection_limit(cfg: CfgNode) -> int:
    """COCO's AP looks at 100 detections an image; a crowded dataset may ask for more."""
    return max(100, int(cfg.TEST.DETECTIONS_PER_IMAGE))
