"""What frozen layers make of an image, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_maskrcnn.feature_cache.store import Entry, TieredStore
from transfer_maskrcnn.feature_cache.views import Canvases, Size
from transfer_maskrcnn.modeling.freezing import is_frozen

_PLANES, _ROWS = "nchw", "nhwc"  # how the pixels of a stored feature map follow each other


@dataclass(frozen=True)
class FrozenPart:
    """The longest stretch of a detector, from the image on, that training leaves as it is.

    Attributes:
        name: of ``module``, for messages.
        module: from padded images to a dict of feature maps: the backbone, or its backbone below FPN.
        rpn: the RPN, if its proposals are frozen, too.
    """

    name: str
    module: nn.Module
    rpn: RPN | None

    def modules(self) -> list[nn.Module]:
        return [self.module] + ([self.rpn] if self.rpn is not None else [])


def find_frozen_part(model: nn.Module) -> FrozenPart | None:
    """The frozen part of a detector (not wrapped).

    None where its backbone trains, or where it does not run as GeneralizedRCNN does: PanopticFPN, for
    one, compares features with targets of the batch's own size.
    """
    if type(model).forward is not GeneralizedRCNN.forward:
        return None
    backbone: Any = model.backbone
    rpn: Any = model.proposal_generator
    if is_frozen(backbone):
        # freezing gave it a forward of its own, without losses; a stock one would still give them
        proposes = type(rpn) is RPN and is_frozen(rpn) and "forward" in vars(rpn)
        return FrozenPart("backbone", backbone, rpn if proposes else None)
    backbone = getattr(backbone, "bottom_up", None)
    if isinstance(backbone, nn.Module) and is_frozen(backbone):
        return FrozenPart("backbone.bottom_up", backbone, None)
    return None


class FeatureCache:
    """Takes the place of a model's frozen part while it trains, and of nothing else.

    What it gives is what the part computes, bit for bit, in the type in which it computes it: an
    image is padded to a fixed canvas, so that it has one result whatever stands beside it in a
    batch, and its key is a digest of its pixels, so that each view of it has a result of its own.
    Evaluation, and losses measured without gradients, go through the model as it is.
    """

    def __init__(self, model: nn.Module, part: FrozenPart, store: TieredStore, canvases: Canvases):
        """
        Args:
            model: a GeneralizedRCNN, not wrapped, on the device it trains on.
            part: of :func:`find_frozen_part`.
        """
        self._model = model
        self._part = part
        self._store = store
        self._canvases = canvases
        self._batch: list[Entry] | None = None

    @property
    def full(self) -> bool:
        """No more entries are stored; those missing are computed each time."""
        return self._store.full

    def attach(self) -> None:
        """Put the cache in the part's place."""
        self._compute, self._propose = self._part.module.forward, None
        self._undo = [
            self._model.register_forward_pre_hook(self._look_up_batch).remove,
            # behind the hook that looks it up: who calls a part of the model by itself computes it
            self._model.register_forward_hook(self._forget_batch, always_call=True).remove,
            _replace_forward(self._part.module, self._features),
        ]
        if self._part.rpn is not None:
            self._propose = self._part.rpn.forward
            self._undo.append(_replace_forward(self._part.rpn, self._proposals))

    def detach(self) -> None:
        """Give the part its place back."""
        for undo in self._undo:
            undo()

    def add(self, image: Tensor) -> Entry:
        """The entry of an image, computed unless it is there.

        Args:
            image: uint8 (3, H, W), as the mapper gives it.
        """
        key = _digest(image)
        entry = self._store.get(key)
        if entry is None:
            entry = self._compute_entry(image)
            self._store.put(key, entry)
        return entry

    def _look_up_batch(self, model: nn.Module, inputs: Any) -> None:
        trains = model.training and torch.is_grad_enabled()
        self._batch = [self.add(x["image"]) for x in inputs[0]] if trains else None

    def _forget_batch(self, *_: Any) -> None:
        self._batch = None

    def _features(self, images: Tensor) -> Any:
        if self._batch is None:
            return self._compute(images)
        return _stack_features(self._batch, images.device)

    def _proposals(self, images: ImageList, features: Any, gt_instances: Any = None) -> Any:
        if self._batch is None:
            assert self._propose is not None
            return self._propose(images, features, gt_instances)
        sizes = images.image_sizes
        device = images.tensor.device
        pairs = zip(self._batch, sizes, strict=True)
        return [_read_proposals(entry, size, device) for entry, size in pairs], {}

    def _compute_entry(self, image: Tensor) -> Entry:
        size = (int(image.shape[1]), int(image.shape[2]))
        with torch.no_grad():
            images = self._model.preprocess_image([{"image": image}])  # type: ignore[operator]
            padded = _pad(images.tensor, self._canvases.of(size))
            features = self._compute(padded)
        entry = _write_features(features)
        if self._propose is not None:
            # A frozen RPN proposes without a graph, but only where training could make one.
            with torch.enable_grad():
                proposals, _ = self._propose(ImageList(padded, [size]), features, [])
            entry["proposals/boxes"] = proposals[0].proposal_boxes.tensor.detach().cpu()
            entry["proposals/logits"] = proposals[0].objectness_logits.detach().cpu()
        return entry


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Put ``forward`` in the place of the module's own; returns what takes it out again."""
    before = vars(module).get("forward")
    module.forward = forward

    def undo() -> None:
        if vars(module).get("forward") != forward:
            return  # a new phase has frozen or freed the RPN since
        del module.forward
        if before is not None:
            module.forward = before

    return undo


def _digest(image: Tensor) -> str:
    pixels: Any = image.contiguous().numpy()
    digest = hashlib.blake2b(str((pixels.shape, pixels.dtype)).encode(), digest_size=16)
    digest.update(pixels)
    return digest.hexdigest()


def _pad(images: Tensor, canvas: Size) -> Tensor:
    """Zeros to the right and below, as detectron2 pads normalised images to one size."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, max(0, canvas[1] - width), 0, max(0, canvas[0] - height)))


def _write_features(features: dict[str, Tensor]) -> dict[str, Tensor]:
    entry = {}
    for name, batch in features.items():
        rows = batch.is_contiguous(memory_format=torch.channels_last) and not batch.is_contiguous()
        layout = _ROWS if rows else _PLANES
        pixels = batch.permute(0, 2, 3, 1) if rows else batch
        entry[f"{layout}/{name}"] = pixels.cpu().contiguous()
    return entry


def _stack_features(batch: Sequence[Entry], device: torch.device) -> dict[str, Tensor]:
    features = {}
    for key in batch[0]:
        layout, name = key.split("/", 1)
        if layout in (_PLANES, _ROWS):
            stacked = torch.cat([entry[key].to(device, non_blocking=True) for entry in batch])
            rows = layout == _ROWS
            features[name] = stacked.permute(0, 3, 1, 2) if rows else stacked
    return features


def _read_proposals(entry: Entry, size: Size, device: torch.device) -> Instances:
    # copies, so that nothing downstream can change the entry
    return Instances(
        size,
        proposal_boxes=Boxes(entry["proposals/boxes"].to(device, copy=True)),
        objectness_logits=entry["proposals/logits"].to(device, copy=True),
    )
