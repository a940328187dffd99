"""How many objects the RPN proposes: its recall, recorded while an evaluation runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances
from torch import Tensor, nn

from transfer_maskrcnn.evaluation.explain.causes import PROPOSALS_FILE
from transfer_maskrcnn.evaluation.explain.tide import FOREGROUND, SIZES, in_size
from transfer_maskrcnn.files import write_json

#: the best so many proposals of an image
LIMITS = (100, 1000)


@contextmanager
def recorded_proposals(model: nn.Module) -> Iterator[list[Instances]]:
    """A list that gets the proposals of every image that ``model`` sees within the block.

    They are (N, 4) XYXY in pixels of the image as the model sees it, the best first. The list stays
    empty for a model without ``proposal_generator``.
    """
    seen: list[Instances] = []
    generator = getattr(model, "proposal_generator", None)
    if generator is None:
        yield seen
        return

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.extend(output[0])

    handle = generator.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def in_image(proposals: Instances, height: int, width: int) -> Tensor:
    """(N, 4) XYXY on the CPU, in pixels of the image of ``height`` and ``width``; at most 1000."""
    boxes = proposals.proposal_boxes[: LIMITS[-1]].clone()
    seen_height, seen_width = proposals.image_size
    boxes.scale(width / seen_width, height / seen_height)
    scaled: Tensor = boxes.tensor.float().cpu()
    return scaled


class ProposalRecall:
    """Which objects have a proposal that fits (IoU 0.5), gathered image by image."""

    def __init__(self) -> None:
        #: of each object: area, best IoU with the first 100 and with the first 1000 proposals, and
        #: how many its image has, up to 1000
        self.rows: list[tuple[float, ...]] = []

    def add(self, boxes: Tensor, objects: Iterable[dict[str, Any]]) -> None:
        """One image.

        Args:
            boxes: (N, 4) XYXY proposals in pixels of the image, the best first.
            objects: its COCO annotations; crowds do not count.
        """
        wanted = [o for o in objects if not o.get("iscrowd", 0)]
        if not wanted:
            return
        proposed = boxes.numpy().astype(float)
        proposed[:, 2:] -= proposed[:, :2]
        best = np.zeros((len(LIMITS), len(wanted)))
        if len(proposed):
            iou = mask_util.iou(
                proposed, np.array([o["bbox"] for o in wanted], dtype=float), [0] * len(wanted)
            )
            best = np.stack([iou[:limit].max(axis=0) for limit in LIMITS])
        self.rows += [
            (o["area"], *of_one, len(proposed)) for o, of_one in zip(wanted, best.T, strict=True)
        ]


def write_recall(rows: Sequence[tuple[float, ...]], folder: str | os.PathLike[str]) -> None:
    """Write ``proposals.json``: the recall with 100 and with 1000 proposals, of all objects and by
    size, null for a size without objects; and the median and largest number of proposals of an
    object's image. Without rows there is none, nor an older one."""
    path = os.path.join(folder, PROPOSALS_FILE)
    if not rows:
        if os.path.exists(path):
            os.remove(path)
        return
    area, *best, proposals = np.array(rows, dtype=float).T
    groups = {"all": in_size(area, None), **{size: in_size(area, size) for size in SIZES}}
    recall = {
        str(limit): {
            name: float((iou[members] >= FOREGROUND).mean()) if members.any() else None
            for name, members in groups.items()
        }
        for limit, iou in zip(LIMITS, best, strict=True)
    }
    objects = {name: int(members.sum()) for name, members in groups.items()}
    seen = {"median": float(np.median(proposals)), "most": int(proposals.max())}
    content = {"iou": FOREGROUND, "objects": objects, "proposals": seen, "recall": recall}
    write_json(path, content)
