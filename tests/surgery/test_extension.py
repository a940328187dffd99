"""A source whose classes all stay, and classes that are split and merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.classes import extended_classes, known_classes
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.plan import TransferPlan, apply_plan, plan_transfer

Build = Callable[..., nn.Module]
Tiny = Callable[..., nn.Module]
BOX = "roi_heads.box_predictor"
MASK = "roi_heads.mask_head.predictor"
RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x"
AGNOSTIC = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
AGNOSTIC += ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True]

# source, dataset, extended
EXTENDED = [
    (["cat", "dog"], ["newt", "cat", "ape"], ("cat", "dog", "newt", "ape")),
    # the source's spelling stays
    (["Traffic Light"], ["traffic_lights"], ("Traffic Light",)),
    # rows without a class are left out
    (["cat", "", "dog", ""], ["newt"], ("cat", "dog", "newt")),
    # where the dataset tells two apart, only the exact name is the source's
    (["glass"], ["glasses", "glass"], ("glass", "glasses")),
    # nothing new
    (["cat", "dog"], ["dog"], ("cat", "dog")),
]


@pytest.mark.parametrize(("source", "dataset", "expected"), EXTENDED)
def test_extended_classes(source: list[str], dataset: list[str], expected: tuple[str, ...]) -> None:
    extended = extended_classes(source, dataset)
    assert extended == expected
    assert set(known_classes(dataset, extended)) == set(dataset)
    assert extended_classes(extended, dataset) == extended, "extended again, nothing is new"


def test_two_classes_of_the_dataset_cannot_be_one_of_the_source() -> None:
    with pytest.raises(ConfigError, match="'Cars' and 'CAR' both are the model's class 'car'"):
        extended_classes(["car"], ["Cars", "CAR"])


names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)


@settings(max_examples=40, deadline=None)
@given(source=names, dataset=names, agnostic=st.booleans(), seed=st.integers(0, 9))
def test_what_the_source_says_of_its_classes_stays_bit_for_bit(
    tiny: Tiny, source: list[str], dataset: list[str], agnostic: bool, seed: int
) -> None:
    """On random RoI features, for any number of base and novel classes."""
    old = _whole_numbers(tiny(len(source), agnostic=agnostic), seed)
    classes = extended_classes(source, dataset)
    new = tiny(len(classes), agnostic=agnostic, seed=1)
    plan = _move(old, tuple(source), new, classes)
    assert plan.problems == ()
    features = torch.randint(-99, 99, (7, 2)).float()
    before, after = _predict(old, features), _predict(new, features)
    k = len(source)
    assert torch.equal(after["cls_score"][:, :k], before["cls_score"][:, :k])
    assert torch.equal(after["cls_score"][:, -1], before["cls_score"][:, -1]), "background"
    for name in ("bbox_pred", "mask"):
        assert torch.equal(after[name][:, : before[name].shape[1]], before[name])


def _whole_numbers(model: nn.Module, seed: int) -> nn.Module:
    """Weights whose sums are exact, in whatever order a matrix product adds them."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randint(-99, 99, tensor.shape, generator=generator))
    return model


@torch.no_grad()
def _predict(model: nn.Module, features: Tensor) -> dict[str, Tensor]:
    heads: Any = model
    box = heads["roi_heads"]["box_predictor"]
    mask = heads["roi_heads"]["mask_head"]["predictor"](features[:, :, None, None])
    return {name: box[name](features) for name in box} | {"mask": mask.flatten(1)}


def _move(
    old: nn.Module, source: tuple[str, ...], new: nn.Module, target: Any, **arguments: Any
) -> TransferPlan:
    weights = SourceWeights(old.state_dict(), "old.pth", source)
    plan = plan_transfer(weights, new, keep="class_rows", target_classes=target, **arguments)
    apply_plan(plan, weights, new)
    return plan


@pytest.mark.parametrize(
    ("config", "opts"),
    [(RCNN, []), (RCNN, AGNOSTIC), (CASCADE, [])],
    ids=["rcnn", "one", "cascade"],
)
def test_whole_detectors(
    config: str, opts: list[Any], build: Build, heads: Callable[[nn.Module], Any]
) -> None:
    source, target = ("cat", "dog", "owl"), ("cat", "dog", "owl", "newt", "pup")
    old, new = build(config, 3, opts), build(config, 5, opts, seed=1)
    plan = _move(old, source, new, target, new_class_init=[["pup", "dog"]])
    plan.check()
    before, after = heads(old), heads(new)
    assert all(map(torch.equal, before["rpn"], after["rpn"]))
    for there, here in zip(before["logits"], after["logits"], strict=True):
        assert torch.allclose(here[:, [0, 1, 2, -1]], there, atol=1e-6)
        assert torch.allclose(here[:, 4], there[:, 1], atol=1e-6), "starts as its parent"
    for name in ("deltas", "masks"):
        for there, here in zip(before[name], after[name], strict=True):
            assert torch.allclose(here[:, : there.shape[1]], there, atol=1e-6)


@pytest.mark.parametrize("config", [RCNN, CASCADE])
def test_a_merged_class_scores_as_the_mean_of_its_sources_logits(
    config: str, build: Build, heads: Callable[[nn.Module], Any]
) -> None:
    source, target = ("car", "truck", "bus", "dog"), ("dog", "vehicle")
    pairs = [["car", "vehicle"], ["truck", "vehicle"], ["bus", "vehicle"]]
    old, new = build(config, 4), build(config, 2, seed=1)
    plan = _move(old, source, new, target, class_map=pairs)
    plan.check()
    before, after = heads(old), heads(new)
    for there, here in zip(before["logits"], after["logits"], strict=True):
        combined = torch.stack([there[:, 3], there[:, :3].mean(1), there[:, 4]], 1)
        assert torch.allclose(here.softmax(1), combined.softmax(1), atol=1e-6)
    for there, here in zip(before["masks"], after["masks"], strict=True):
        assert torch.allclose(here[:, 1], there[:, :3].mean(1), atol=1e-5)
    if config == RCNN:  # a cascade has one box for all classes
        boxes, merged = before["deltas"][0].view(-1, 4, 4), after["deltas"][0].view(-1, 2, 4)
        assert torch.allclose(merged[:, 1], boxes[:, :3].mean(1), atol=1e-6)
    assert "class 'vehicle': mean of the rows of 'car', 'truck', 'bus', class map" in plan.table()
    assert plan.loaded_fraction() == 1


def test_one_parent_of_a_merged_class(tiny: Tiny) -> None:
    old, new = tiny(2), tiny(1, seed=1)
    pairs = [["car", "vehicle"], ["bus", "vehicle"]]
    init = [["vehicle", "bus"]]
    plan = _move(old, ("car", "bus"), new, ("vehicle",), class_map=pairs, new_class_init=init)
    name = f"{BOX}.cls_score.weight"
    assert torch.equal(new.state_dict()[name][0], old.state_dict()[name][1])
    assert "class 'vehicle': rows of 'bus', parent class" in plan.table()


def test_a_split_class_starts_as_its_parent(tiny: Tiny) -> None:
    old, new = tiny(2), tiny(3, seed=1)
    pairs = [["car", "sedan"], ["car", "van"]]
    plan = _move(old, ("car", "bus"), new, ("sedan", "bus", "van"), class_map=pairs)
    for name, size in ((f"{BOX}.cls_score", 1), (f"{BOX}.bbox_pred", 4), (MASK, 1)):
        for leaf in ("weight", "bias"):
            there, here = (m.state_dict()[f"{name}.{leaf}"] for m in (old, new))
            for place in (0, 2):
                assert torch.equal(here[size * place :][:size], there[:size])
    assert "class 'sedan', 'van': rows of 'car', class map" in plan.table()


def test_many_classes_that_stay_are_one_line_of_the_table(tiny: Tiny) -> None:
    source = tuple(f"class {i}" for i in range(12))
    plan = _move(tiny(12), source, tiny(13, seed=1), (*source, "newt"))
    text = " ".join(plan.table().split())
    assert "'class 7' and 4 more: own rows, equal name class 'newt': new class" in text
