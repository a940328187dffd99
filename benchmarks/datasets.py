"""Sides that read a dataset, and that score detections on it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator

from benchmarks.pairs import Side
from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator

NAME = "benchmark_val"


class StockRegistration(Side):
    """detectron2's reader of COCO json."""

    def __init__(self, annotations: str):
        self._path = Path(annotations)

    def run(self) -> None:
        self._dicts = load_coco_json(str(self._path), str(self._path.parent), NAME)

    def facts(self) -> dict[str, Any]:
        return {"bytes": self._path.stat().st_size, "images": len(self._dicts)}


class CachedRegistration(StockRegistration):
    """This project's, with what an earlier registration left behind."""

    def run(self) -> None:
        if NAME in DatasetCatalog:
            DatasetCatalog.remove(NAME)
            MetadataCatalog.remove(NAME)
        register_dataset(NAME, format="coco", annotations=self._path, image_root=self._path.parent)
        self._dicts = DatasetCatalog.get(NAME)


class FirstRegistration(StockRegistration):
    """This project's, from the files: every image and instance is checked."""

    def run(self) -> None:
        spec = DatasetSpec(NAME, "coco", str(self._path), str(self._path.parent))
        self._dicts = list(parse(spec).dicts)


class StockEvaluation(Side):
    """detectron2's COCOEvaluator, with pycocotools or with its own C++."""

    def __init__(self, annotations: str, detections: str, compiled: bool = False):
        path = Path(annotations)
        register_dataset(NAME, format="coco", annotations=path, image_root=path.parent)
        DatasetCatalog.get(NAME)
        self._detections = Path(detections)
        self._compiled = compiled
        self._evaluator = self.evaluator(tempfile.mkdtemp(prefix="benchmark_"))

    def evaluator(self, folder: str) -> COCOEvaluator:
        return COCOEvaluator(
            NAME, ("bbox", "segm"), output_dir=folder, use_fast_impl=self._compiled
        )

    def prepare(self) -> None:
        self._evaluator.reset()
        by_image: dict[int, list[dict[str, Any]]] = {}
        for result in json.loads(self._detections.read_text()):
            result["category_id"] -= 1  # a model's classes count from 0
            by_image.setdefault(result["image_id"], []).append(result)
        self._evaluator._predictions = [
            {"image_id": image, "instances": results} for image, results in by_image.items()
        ]

    def run(self) -> None:
        self._results = self._evaluator.evaluate()

    def facts(self) -> dict[str, Any]:
        return {task: round(figures["AP"], 9) for task, figures in self._results.items()}


class FastEvaluation(StockEvaluation):
    """This project's evaluator."""

    def evaluator(self, folder: str) -> COCOEvaluator:
        return InstanceEvaluator(NAME, folder, tasks=("bbox", "segm"))
