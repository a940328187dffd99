"""What frozen layers make of an image, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch.nn import functional as F

from transfer_maskrcnn.data.cache import Cache, Entry, entry_bytes
from transfer_maskrcnn.modeling.rcnn import Batch, Features, FrozenPart, Recalled, TransferRCNN

Size = tuple[int, int]  # height, width in pixels

_PLANES, _ROWS = "nchw", "nhwc"  # how the pixels of a stored feature map follow each other
_BOXES, _LOGITS = "proposals/boxes", "proposals/logits"


@dataclass(frozen=True)
class Canvases:
    """The padded size of every batch, so that the same image always gets the same padding.

    Padding changes a network's output far into the image; in an ordinary batch, it depends on the
    images that happen to be beside it.

    Attributes:
        upright, wide: for images at most as wide as high, and for the others.
    """

    upright: Size
    wide: Size

    def of(self, size: Size) -> Size:
        """The canvas for an image of ``size``.

        Raises:
            ValueError: the image is larger.
        """
        canvas = self.wide if size[1] > size[0] else self.upright
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise ValueError(f"an image of {size} (height, width) is larger than {canvas}")
        return canvas


class MemoryStore:
    """Entries in main memory, up to so many bytes.

    Attributes:
        full: an entry did not fit any more.
    """

    def __init__(self, budget: int, pinned: bool = False):
        """
        Args:
            budget: most bytes of all entries together.
            pinned: in page-locked memory, from which a GPU copies without waiting.
        """
        self.full = False
        self._left = budget
        self._pinned = pinned
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, tensors: dict[str, Tensor]) -> bool:
        """Whether the entry is kept."""
        self._left -= entry_bytes(tensors)
        self.full |= self._left < 0
        if not self.full:
            kept = {n: t.pin_memory() for n, t in tensors.items()} if self._pinned else tensors
            self._entries[key] = Entry(kept, None)
        return not self.full


class FeatureCache:
    """Takes the place of a model's frozen part while it trains, and of nothing else.

    What it gives is what the part computes, bit for bit, in the type in which it computes it: an
    image is padded to a fixed canvas, so that it has one result whatever stands beside it in a
    batch, and its key is a digest of its pixels, so that each view of it has a result of its own.
    """

    def __init__(
        self, model: TransferRCNN, part: FrozenPart, store: MemoryStore | Cache, canvases: Canvases
    ):
        """
        Args:
            model: not wrapped, on the device it trains on.
            part: what is frozen of it.
            store: of nothing but entries of this model, part and canvases.
        """
        self._model = model
        self._part = part
        self.store = store
        self._canvases = canvases

    def recall(self, batch: Batch) -> Recalled:
        """What the part makes of a batch; ``TransferRCNN.recall``."""
        entries, device = [self.add(x["image"]) for x in batch], self._model.device
        output = _read_features(entries, device)
        if self._part.rpn is None:
            return Recalled(output, None)
        proposals = [
            Instances(  # of copies, so that nothing downstream can change the entry
                tuple(x["image"].shape[1:]),
                proposal_boxes=Boxes(entry[_BOXES].to(device, copy=True)),
                objectness_logits=entry[_LOGITS].to(device, copy=True),
            )
            for x, entry in zip(batch, entries, strict=True)
        ]
        return Recalled(output, proposals)

    def add(self, image: Tensor) -> dict[str, Tensor]:
        """The entry of an image, computed unless it is there.

        Args:
            image: uint8 (3, H, W), as the mapper gives it.
        """
        key = image_key(image)
        found = self.store.get(key)
        if found is not None:
            return found.tensors
        entry = self.compute(image)
        self.store.put(key, entry)
        return entry

    @torch.no_grad()
    def compute(self, image: Tensor) -> dict[str, Tensor]:
        """What is kept of an image: feature maps and, of a frozen RPN, its proposals."""
        size = (int(image.shape[1]), int(image.shape[2]))
        pixels = self._model.preprocess_image([{"image": image}]).tensor
        canvas, padded = self._canvases.of(size), pixels.shape[-2:]
        # zeros to the right and below, as detectron2 pads normalised images to one size
        missing = [max(0, canvas[1] - padded[1]), max(0, canvas[0] - padded[0])]
        images = F.pad(pixels, (0, missing[0], 0, missing[1]))
        features = self._part.module(images)
        entry = _write_features(features)
        if self._part.rpn is not None:
            with torch.enable_grad():  # a frozen RPN proposes only where there could be a graph
                proposals, _ = self._part.rpn(ImageList(images, [size]), features)
            entry[_BOXES] = proposals[0].proposal_boxes.tensor.detach().cpu()
            entry[_LOGITS] = proposals[0].objectness_logits.detach().cpu()
        return entry


def image_key(image: Tensor) -> str:
    """A digest of an image's size and of each of its pixels."""
    pixels: Any = image.contiguous().numpy()
    digest = hashlib.blake2b(str((pixels.shape, pixels.dtype)).encode(), digest_size=16)
    digest.update(pixels)
    return digest.hexdigest()


def _write_features(features: Features) -> dict[str, Tensor]:
    entry = {}
    for name, batch in features.items():
        rows = batch.is_contiguous(memory_format=torch.channels_last) and not batch.is_contiguous()
        pixels = batch.permute(0, 2, 3, 1) if rows else batch
        entry[f"{_ROWS if rows else _PLANES}/{name}"] = pixels.cpu().contiguous()
    return entry


def _read_features(entries: Sequence[dict[str, Tensor]], device: torch.device) -> Features:
    features = {}
    for key in entries[0]:
        layout, name = key.split("/", 1)
        if layout in (_PLANES, _ROWS):
            stacked = torch.cat([entry[key].to(device, non_blocking=True) for entry in entries])
            features[name] = stacked.permute(0, 3, 1, 2) if layout == _ROWS else stacked
    return features
