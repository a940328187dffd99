"""Recall of proposals, from what the RPN of a model really gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances

from transfer_maskrcnn.evaluation.coco import proposed, write_recall
from transfer_maskrcnn.evaluation.inference import in_image


def test_proposals_in_the_frame_of_the_image() -> None:
    seen = Instances((10, 20), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 5]])))
    assert in_image(seen, 100, 40).tolist() == [[0, 0, 20, 50]]
    assert seen.proposal_boxes.tensor.tolist() == [[0, 0, 10, 5]], "the model's own stay"


def written(rows: list[tuple[float, ...]], folder: Path) -> dict[str, Any]:
    write_recall(rows, folder)
    content: dict[str, Any] = json.loads((folder / "proposals.json").read_text())
    return content


def test_recall_at_100_and_1000_by_size(tmp_path: Path) -> None:
    far = torch.tensor([[500.0, 500, 510, 510]]).repeat(100, 1)
    good = torch.tensor([[0.0, 0, 20, 20]])
    objects = [
        {"bbox": [0, 0, 20, 22], "area": 400},
        {"bbox": [40, 0, 50, 50], "area": 2500},
        {"bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
    ]
    rows = [
        *proposed(torch.cat([good, far]), objects[:1]),  # the first: within 100
        *proposed(torch.cat([far, good]), objects),  # the 101st, and none for the medium one
        *proposed(torch.zeros(0, 4), objects[:1]),  # an image without any proposal
        *proposed(good, []),
    ]
    content = written(rows, tmp_path)
    assert content["proposals"] == {"median": 101.0, "most": 101}
    assert content["objects"] == {"all": 4, "small": 3, "medium": 1, "large": 0}
    third = pytest.approx(1 / 3)
    at_100 = {"all": 0.25, "small": third, "medium": 0.0, "large": None}
    assert content["recall"]["100"] == at_100
    assert content["recall"]["1000"]["small"] == pytest.approx(2 / 3)


def test_an_older_file_goes(tmp_path: Path) -> None:
    (tmp_path / "proposals.json").write_text("{}")
    write_recall([], tmp_path)
    write_recall([], tmp_path)
    assert list(tmp_path.iterdir()) == []
