"""Pseudo-labels as COCO json, for a person to look at and correct."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transfer_maskrcnn.data.export import coco_document
from transfer_maskrcnn.data.formats.base import LoadedDataset, LoadReport
from transfer_maskrcnn.incremental.decide import Annotation, Record


def document(
    records: Sequence[Record],
    annotations: Sequence[Sequence[Annotation]],
    classes: Sequence[str],
    image_root: str,
    first_id: int = 1,
) -> dict[str, Any]:
    """The content of a COCO json.

    Args:
        records: the images.
        annotations: of each image; each with a mask, and ``category_id`` a place in ``classes``.
            A ``score`` is kept: who has one was labelled by a model.
        classes: their category ids count from 1.
        image_root: file names are relative to this folder.
        first_id: the first annotation's ``id``; those of the others follow.
    """
    dicts = [
        {**record, "image_id": number, "annotations": list(own)}
        for number, (record, own) in enumerate(zip(records, annotations, strict=True), start=1)
    ]
    dataset = LoadedDataset(
        dicts=dicts,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        mask_format="bitmask",
        report=LoadReport(),
        positions=(),
        instances=(),
        files=(),
    )
    names = [os.path.relpath(r["file_name"], image_root).replace(os.sep, "/") for r in records]
    content = coco_document(dataset, names)
    given = (a for own in annotations for a in own)
    for number, (written, annotation) in enumerate(
        zip(content["annotations"], given, strict=True), start=first_id
    ):
        written["id"] = number
        if "score" in annotation:
            written["score"] = round(annotation["score"], 4)
    return content
