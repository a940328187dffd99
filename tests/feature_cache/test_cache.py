"""What the cache stands in for, in training alone, and that it leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from transfer_maskrcnn.data.cache import Entry
from transfer_maskrcnn.engine.evaluation import validation_losses
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import train_loader
from transfer_maskrcnn.feature_cache.cache import Canvases, FeatureCache, MemoryStore, image_key
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.rcnn import FrozenPart, TransferRPN

Toy = Callable[..., CfgNode]
FREEZE = "MODEL.TRANSFER.FREEZE"
PRESETS = ["backbone", "backbone_fpn", "backbone_fpn_rpn"]


class Detector:
    """A model in training mode, its batches, and a cache that is not attached yet."""

    def __init__(self, cfg: CfgNode):
        torch.manual_seed(0)
        self.model: Any = build_model(cfg).train()
        found = self.model.frozen_part()
        assert found is not None
        self.part: FrozenPart = found
        self.store = MemoryStore(2**30)
        self.cache = FeatureCache(self.model, found, self.store, Canvases((64, 64), (64, 64)))
        loader = train_loader(cfg, fit_config(cfg))
        self.batches: Iterator[Any] = iter(loader)

    def losses(self, batch: Any) -> dict[str, float]:
        torch.manual_seed(1)
        with EventStorage():
            return {name: value.item() for name, value in self.model(batch).items()}


@pytest.fixture(params=PRESETS)
def detector(request: pytest.FixtureRequest, toy: Toy) -> Detector:
    return Detector(toy(FREEZE, request.param))


FOUND = [
    # MODEL.TRANSFER.FREEZE, the part and whether its proposals are frozen, too
    ("backbone", ("backbone.bottom_up", False)),
    ("backbone_fpn", ("backbone", False)),
    ("backbone_fpn_rpn", ("backbone", True)),
    # an RPN above features that train proposes anew each time
    ("backbone.bottom_up,proposal_generator", ("backbone.bottom_up", False)),
    # heads above a backbone that trains
    ("roi_heads", None),
    ("", None),
]


@pytest.mark.parametrize(("spec", "expected"), FOUND)
def test_what_is_found(spec: str, expected: tuple[str, bool] | None, toy: Toy) -> None:
    model: Any = build_model(toy(FREEZE, spec))
    part = model.frozen_part()
    assert (part and (part.name, part.rpn is not None)) == expected


class OtherRPN(TransferRPN):
    """A user's, which may propose in ways of its own."""


def test_proposals_of_an_rpn_that_is_not_known_are_computed(toy: Toy) -> None:
    model: Any = build_model(toy(FREEZE, "backbone_fpn_rpn"))
    model.proposal_generator.__class__ = OtherRPN
    assert model.frozen_part().rpn is None


def traces(model: nn.Module) -> dict[str, Any]:
    """All that a cache could leave on a model, by module."""
    return {
        name: (vars(m).get("forward"), [*m._forward_pre_hooks.values(), *m._forward_hooks.values()])
        for name, m in model.named_modules()
    }


def test_a_cache_leaves_nothing(detector: Detector) -> None:
    before, state = traces(detector.model), copy.deepcopy(detector.model.state_dict())
    detector.model.recall = detector.cache.recall
    names = [name for name, _ in detector.model.named_parameters()]
    detector.losses(next(detector.batches))
    assert detector.model.state_dict().keys() == state.keys()
    detector.model.recall = None
    assert traces(detector.model) == before
    assert not detector.model._forward_hooks_always_called
    assert [name for name, _ in detector.model.named_parameters()] == names
    assert all(torch.equal(v, state[k]) for k, v in detector.model.state_dict().items())


class Poisoned(MemoryStore):
    """Every image has an entry of zeros, once it is poisoned."""

    poison: Entry | None = None

    def get(self, key: str) -> Entry | None:
        return self.poison or super().get(key)


def test_training_alone_goes_through_the_cache(detector: Detector) -> None:
    batch = next(detector.batches)
    model = detector.model
    images = model.preprocess_image(batch).tensor

    def others() -> list[Tensor]:
        """What is asked of a model beside training it: all of it without the cache."""
        direct = model.backbone(images)
        model.eval()
        found = [*model.inference(batch), *model(batch)]
        with torch.no_grad():
            found += model(batch)
            model.train()
            losses = validation_losses(model, [batch])
        numbers = torch.tensor([*losses.values()], dtype=torch.float64)
        return [numbers, *direct.values(), *(x["instances"].scores for x in found)]

    expected, trained = others(), detector.losses(batch)
    store = Poisoned(2**30)
    canvas = Canvases((64, 64), (64, 64))
    cache = FeatureCache(model, detector.part, store, canvas)
    model.recall = cache.recall
    entry = cache.add(batch[0]["image"])
    store.poison = Entry({name: torch.zeros_like(t) for name, t in entry.items()}, None)
    assert detector.losses(batch) != trained, "the poison works"
    assert all(torch.equal(a, b) for a, b in zip(others(), expected, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_lie_in_memory_as_they_are_computed(layout: torch.memory_format, toy: Toy) -> None:
    """The order decides which kernels see them next."""
    frozen = Detector(toy(FREEZE, "backbone_fpn", "SOLVER.IMS_PER_BATCH", 1))
    frozen.model.to(memory_format=layout)
    seen: list[dict[str, Tensor]] = []
    frozen.model.proposal_generator.register_forward_pre_hook(lambda _, x: seen.append(x[1]))
    batch = next(frozen.batches)
    frozen.losses(batch)
    frozen.model.recall = frozen.cache.recall
    frozen.losses(batch)
    for name in ("p2", "p3", "p4"):
        assert seen[0][name].is_contiguous(memory_format=layout)
        assert seen[0][name].stride() == seen[1][name].stride()
        assert torch.equal(seen[0][name], seen[1][name])


def test_training_changes_no_entry(detector: Detector) -> None:
    detector.model.recall = detector.cache.recall
    model, batches = detector.model, [next(detector.batches) for _ in range(10)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    entries = [detector.cache.add(x["image"]) for batch in batches for x in batch]
    before = copy.deepcopy(entries)
    for batch in batches:
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        optimizer.step()
    for entry, old in zip(entries, before, strict=True):
        assert all(torch.equal(entry[name], old[name]) for name in old)


def test_proposals_are_copies(toy: Toy) -> None:
    """StandardROIHeads writes into none of them; another head may."""
    frozen = Detector(toy(FREEZE, "backbone_fpn_rpn"))
    frozen.model.recall = frozen.cache.recall
    batch = next(frozen.batches)
    frozen.model.roi_heads.register_forward_pre_hook(
        lambda _, inputs: [p.proposal_boxes.scale(2, 2) for p in inputs[2]] and None
    )
    entries = [frozen.cache.add(x["image"]) for x in batch]
    before = copy.deepcopy(entries)
    frozen.losses(batch)
    for entry, old in zip(entries, before, strict=True):
        assert torch.equal(entry["proposals/boxes"], old["proposals/boxes"])


def test_an_entry_belongs_to_the_pixels(detector: Detector) -> None:
    image = next(detector.batches)[0]["image"]
    first = detector.cache.add(image)
    assert detector.cache.add(image.clone()) is first
    other = image.clone()
    other[0, 0, 0] += 1
    assert detector.cache.add(other) is not first
    wide = torch.zeros(3, 32, 64, dtype=torch.uint8)
    assert detector.cache.add(wide.reshape(3, 64, 32)) is not detector.cache.add(wide)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_every_pixel_counts(height: int, width: int, data: st.DataObject) -> None:
    """In whatever row, column and channel: two views that differ in one have two entries."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    places = [(2, height - 1, width - 1), (0, 0, 0)]
    places.append(tuple(data.draw(st.integers(0, side - 1)) for side in image.shape))
    for place in places:
        other = image.clone()
        other[place] = 1
        assert image_key(other) != image_key(image), place
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert image_key(strided) == image_key(image), "the same pixels, however they lie in memory"


def test_an_image_beyond_its_canvas_is_an_error(detector: Detector) -> None:
    detector.model.recall = detector.cache.recall
    with pytest.raises(ValueError, match=r"\(64, 65\) .* is larger than \(64, 64\)"):
        detector.cache.add(torch.zeros(3, 64, 65, dtype=torch.uint8))
