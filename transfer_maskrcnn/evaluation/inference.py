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
from transfer_maskrcnn.evaluation.proposals import in_image, recorded_proposals
from transfer_maskrcnn.modeling.rcnn import TransferRCNN
from transfer_maskrcnn.surgery.names import unwrapped


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
        with self._autocast():
            if not _gives_plain_masks(inner):
                return self.model(batched_inputs)
            with recorded_proposals(inner) as proposals:
                found = inner.inference(batched_inputs, do_postprocess=False)
        outputs: list[dict[str, Any]] = []
        for place, (instances, image) in enumerate(zip(found, batched_inputs, strict=True)):
            frame = _frame(instances, image)
            outputs.append({"instances": _postprocessed(instances, *frame)})
            if proposals:
                outputs[-1]["proposal_boxes"] = in_image(proposals[place], *frame)
        return outputs

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(next(self.model.parameters()).device.type, self.precision)


def _gives_plain_masks(model: Any) -> bool:
    """Whether its inference is detectron2's own, and has nothing but boxes and masks."""
    return (
        type(model) in (GeneralizedRCNN, TransferRCNN)
        and not model.training
        and not getattr(model.roi_heads, "keypoint_on", False)
    )


def _frame(instances: Instances, image: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the image that detections are for."""
    height, width = instances.image_size
    return image.get("height", height), image.get("width", width)


def _postprocessed(instances: Instances, height: int, width: int) -> Instances:
    """In the frame of the image, what is empty left out, and masks encoded."""
    masks = instances.get_fields().get("pred_masks")
    if not isinstance(masks, Tensor):
        return detector_postprocess(instances, height, width)
    # Under another name, detectron2 does not paste them, but drops those of empty boxes.
    instances.remove("pred_masks")
    instances.mask_probabilities = masks
    kept = detector_postprocess(instances, height, width).to("cpu")
    probabilities = kept.mask_probabilities
    kept.remove("mask_probabilities")
    rles = encode_masks(probabilities, kept.pred_boxes.tensor, height, width)
    kept.pred_masks = EncodedMasks(rles)
    return kept
