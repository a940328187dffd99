"""Inference for an evaluation: masks leave it as run lengths, never as images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from transfer_maskrcnn.evaluation.mask_rle import EncodedMasks, encode_masks
from transfer_maskrcnn.modeling.rcnn import TransferRCNN
from transfer_maskrcnn.surgery.names import unwrapped

#: the best so many proposals of an image
PROPOSAL_LIMITS = (100, 1000)


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
        autocast = torch.autocast(device, self.precision) if self.precision else nullcontext()
        with autocast:
            if not _gives_plain_masks(inner):
                return self.model(batched_inputs)
            # GeneralizedRCNN.inference, which keeps its proposals to itself
            images = inner.preprocess_image(batched_inputs)
            features = inner.backbone(images.tensor)
            proposals, _ = inner.proposal_generator(images, features, None)
            found, _ = inner.roi_heads(images, features, proposals, None)
        outputs = []
        for instances, seen, image in zip(found, proposals, batched_inputs, strict=True):
            height, width = instances.image_size
            frame = image.get("height", height), image.get("width", width)
            output = {"instances": _postprocessed(instances, *frame)}
            outputs.append({**output, "proposal_boxes": in_image(seen, *frame)})
        return outputs


def _gives_plain_masks(model: Any) -> bool:
    """Whether its inference is detectron2's own, and has nothing but boxes and masks."""
    return (
        type(model) in (GeneralizedRCNN, TransferRCNN)
        and model.proposal_generator is not None
        and not model.training
        and not getattr(model.roi_heads, "keypoint_on", False)
    )


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
