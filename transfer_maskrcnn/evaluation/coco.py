"""COCO AP for every registered dataset, whatever format its annotations came in."""

from __future__ import annotations

import os
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator

from transfer_maskrcnn.files import write_json


def ground_truth(dataset_name: str) -> dict[str, Any]:
    """The dataset as loaded, as a COCO json. ``area``, which decides what counts as small, medium
    or large, is the annotation file's own where it states a credible one."""
    content: dict[str, Any] = convert_to_coco_dict(dataset_name)
    annotations = (a for d in DatasetCatalog.get(dataset_name) for a in d.get("annotations", ()))
    for written, annotation in zip(content.get("annotations", ()), annotations, strict=True):
        written["area"] = annotation.get("area", written["area"])
    return content


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator against the dataset dicts as loaded.

    The ground truth is written afresh from the dicts, so it holds just what training would see:
    stock COCOEvaluator reads ``json_file`` instead, which counts left-out images and instances as
    missed, or an ``*_coco_format.json`` that an earlier run left in the folder, however old.
    """

    def __init__(self, dataset_name: str, output_dir: str, **kwargs: Any):
        """
        Args:
            dataset_name: a name in DatasetCatalog.
            output_dir: gets ``<name>_ground_truth.json`` and COCO results of the predictions.
            **kwargs: COCOEvaluator's own arguments.
        """
        os.makedirs(output_dir, exist_ok=True)
        json_file = os.path.join(output_dir, f"{dataset_name}_ground_truth.json")
        write_json(json_file, ground_truth(dataset_name))
        loaded = MetadataCatalog.get(dataset_name)
        # COCOEvaluator finds the json through a metadata entry; one of its own leaves the
        # dataset's entry as it is.
        own_entry = f"{dataset_name}@{os.path.abspath(json_file)}"
        if own_entry not in MetadataCatalog.list():
            MetadataCatalog.get(own_entry).set(
                json_file=json_file,
                thing_classes=loaded.thing_classes,
                thing_dataset_id_to_contiguous_id=loaded.get(
                    "thing_dataset_id_to_contiguous_id",
                    {i: i for i in range(len(loaded.thing_classes))},
                ),
            )
        super().__init__(own_entry, output_dir=output_dir, **kwargs)
