"""Inference for an evaluation: masks leave it as COCO's run lengths, never as images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.modeling.rcnn import TransferRCNN
from transfer_maskrcnn.surgery.names import unwrapped

#: the best so many proposals of an image
PROPOSAL_LIMITS = (100, 1000)
RLE = dict[str, Any]
#: pixels that are looked at together: what they take stays within a core's cache
BAND = 2**17
#: in probability; more than products of matrices are off, even in bf16
MARGIN = 1e-2


class EncodedMasks:
    """The masks of one image as run lengths, in place of a tensor: ``pred_masks`` of Instances.

    Item ``i`` is mask ``i``, decoded: (height, width) bool, on the CPU. So evaluators that go
    through ``pred_masks`` one by one need not know of it.
    """

    def __init__(self, rles: list[RLE]):
        """
        Args:
            rles: compressed COCO RLEs of one size.
        """
        self.rles = rles

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(mask_util.decode(self.rles[index])).bool()


class FastInference(nn.Module):
    """A trained model as ``inference_on_dataset`` wants it: the same detections, sooner.

    A GeneralizedRCNN without keypoints gives :class:`EncodedMasks`, on the CPU, for ``pred_masks``;
    InstanceEvaluator takes them as they are. Any other model gives what it gives by itself.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype | None = None):
        """
        Args:
            model: perhaps wrapped in DistributedDataParallel, which is left out of it. Its mode,
                training or not, is the wrapper's, which ``inference_context`` goes back to.
            precision: inference runs under ``torch.autocast`` of it; None: as it is.
        """
        super().__init__()
        self.model = model
        self.precision = precision
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """
        Args:
            batched_inputs: of detectron2's test loader: ``image``, and ``height`` and ``width``
                of the image that the detections are for, in pixels.

        Returns:
            a dict an image, whose ``instances`` are in the frame of that image; in that frame, too,
            ``proposal_boxes`` (N, 4) XYXY of a model with plain masks, the best first.
        """
        inner: Any = unwrapped(self.model)
        device = next(self.model.parameters()).device.type
        # its inference is detectron2's own, and has nothing but boxes and masks
        plain = (
            type(inner) in (GeneralizedRCNN, TransferRCNN)
            and inner.proposal_generator is not None
            and not inner.training
            and not getattr(inner.roi_heads, "keypoint_on", False)
        )
        with torch.autocast(device, self.precision) if self.precision else nullcontext():
            if not plain:
                return self.model(batched_inputs)
            # GeneralizedRCNN.inference, which keeps its proposals to itself
            images = inner.preprocess_image(batched_inputs)
            features = inner.backbone(images.tensor)
            proposals, _ = inner.proposal_generator(images, features, None)
            found, _ = inner.roi_heads(images, features, proposals, None)
        frames = (
            (image.get("height", size[0]), image.get("width", size[1]))
            for image, size in zip(batched_inputs, images.image_sizes, strict=True)
        )
        return [
            {"instances": _postprocessed(one, *frame), "proposal_boxes": in_image(seen, *frame)}
            for one, seen, frame in zip(found, proposals, frames, strict=True)
        ]


def in_image(proposals: Instances, height: int, width: int) -> Tensor:
    """(N, 4) XYXY on the CPU, in pixels of the image of ``height`` and ``width``; at most 1000."""
    seen_height, seen_width = proposals.image_size
    scale = torch.tensor([width / seen_width, height / seen_height] * 2)
    return proposals.proposal_boxes.tensor[: PROPOSAL_LIMITS[-1]].float().cpu() * scale


def _postprocessed(instances: Instances, height: int, width: int) -> Instances:
    """In the frame of the image, what is empty left out, and masks encoded."""
    masks = instances.get_fields().get("pred_masks")
    if not isinstance(masks, Tensor):
        return detector_postprocess(instances, height, width)
    # Those that are not of empty boxes stay: their places tell which.
    instances.remove("pred_masks")
    instances.place = torch.arange(len(instances), device=masks.device)
    kept = detector_postprocess(instances, height, width)
    probabilities = masks[kept.place]
    kept.remove("place")
    kept = kept.to("cpu")
    kept.pred_masks = EncodedMasks(
        encode_masks(probabilities, kept.pred_boxes.tensor, height, width)
    )
    return kept


@contextmanager
def _one_thread() -> Iterator[None]:
    # The pieces are so small that threads would wait for each other most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@_one_thread()
def encode_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> list[RLE]:
    """Paste each mask into its box on the CPU, and encode what reaches the threshold.

    To the byte what pycocotools' ``encode`` makes of detectron2's ``paste_masks_in_image``. Where
    that fails, at a box outside of the image or with a NaN, the mask is empty.

    Args:
        masks: (N, 1, M, M) probabilities; other types than float32 are converted first.
        boxes: (N, 4) XYXY in pixels of the image.
        height, width: of the image, in pixels.
        threshold: from 0 to 1.

    Returns:
        N compressed RLEs of the whole image: ``size`` [height, width] and ``counts``, bytes.
    """
    masks = masks.to("cpu", torch.float32)
    boxes = boxes.to("cpu", torch.float32)
    x = _normalised(width, boxes[:, 0:1], boxes[:, 2:3])
    y = _normalised(height, boxes[:, 1:2], boxes[:, 3:4])
    # The part of the image that a box can cover, with a pixel to spare, where interpolation still
    # finds something; whole numbers are made last, of none but finite ones.
    starts = (boxes[:, :2].floor() - 1).clamp(min=0)
    ends = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    inside = (starts < ends).all(dim=1).tolist()  # not so with a NaN
    rles = []
    for i, window in enumerate(torch.cat([starts, ends], dim=1).tolist()):
        changes = np.zeros(0, dtype=np.int64)
        if inside[i]:
            left, top, right, bottom = map(int, window)
            bands = _covered(masks[i], x[i, left:right], y[i, top:bottom], threshold)
            rows, columns = _changes(bands, right - left)
            # An end and a start at one position cancel out: the run goes on in the next column.
            changes, times = np.unique((columns + left) * height + rows + top, return_counts=True)
            changes = changes[times == 1]
        rles.append(_compressed(changes, height, width))
    return rles


def _normalised(size: int, low: Tensor, high: Tensor) -> Tensor:
    """(N, size): the centres of a line of pixels; -1 and 1 are the edges of the boxes."""
    return (torch.arange(size, dtype=torch.float32) + 0.5 - low) / (high - low) * 2 - 1


def _covered(mask: Tensor, x: Tensor, y: Tensor, threshold: float) -> Iterator[np.ndarray]:
    """Bands of the window from top to bottom, (rows, columns) bool.

    Two products of matrices interpolate several times faster than ``grid_sample``, but round
    otherwise; it decides where that could matter, and where a NaN or an infinity is about.
    """
    tall, wide = _weights(y, mask), mask[0] @ _weights(x, mask).T
    rows = max(1, BAND // len(x))
    for start in range(0, len(y), rows):
        estimate = (tall[start : start + rows] @ wide).float().numpy()
        covered = estimate >= threshold
        unsure = np.flatnonzero(~(np.abs(estimate - threshold) >= MARGIN))
        if len(unsure):
            row, column = np.divmod(unsure, len(x))
            grid = torch.stack([x[column], y[start + row]], dim=1)[None, None]
            sampled = F.grid_sample(mask[None], grid, align_corners=False)
            np.put(covered, unsure, sampled.numpy() >= threshold)
        yield covered


def _weights(places: Tensor, mask: Tensor) -> Tensor:
    """(places, M): the share of each of the mask's pixels in a place; outside, of zeros, none."""
    side = mask.shape[-1]
    in_mask = ((places + 1) * side - 1) / 2
    return (1 - (in_mask[:, None] - torch.arange(side)).abs()).clamp(min=0)


def _changes(bands: Iterator[np.ndarray], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of where runs start and end; each ends at the foot of its column."""
    above = np.zeros((1, columns), dtype=bool)
    found, row = [], 0
    for band in bands:
        changed = np.flatnonzero(np.concatenate([above, band[:-1]]) != band)
        found.append(changed + row * columns)
        above, row = band[-1:].copy(), row + len(band)
    found.append(np.flatnonzero(above) + row * columns)
    return np.divmod(np.concatenate(found), columns)


def _compressed(changes: np.ndarray, height: int, width: int) -> RLE:
    counts = np.diff(changes, prepend=0, append=height * width)
    if len(changes) and not counts[-1]:  # no zeros follow the last run
        counts = counts[:-1]
    return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
