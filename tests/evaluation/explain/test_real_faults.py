"""A trained detector with a fault planted in its weights or settings: the fault comes first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import prepare_shapes
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.engine.evaluation import evaluate_model
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.evaluation.explain import RESULTS_FILE, explain_folder
from transfer_maskrcnn.modeling.build import build_model

pytestmark = pytest.mark.slow
IMAGES = 12
NAME = "explained_shapes"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first twelve images of shapes_source_val."""
    root = tmp_path_factory.mktemp("shapes")
    folder = prepare_shapes(root, {"source_val"}) / "source_val"
    content = json.loads((folder / "annotations.json").read_text())
    content["images"] = content["images"][:IMAGES]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (root / "few.json").write_text(json.dumps(content))
    register_dataset(
        NAME, format="coco", annotations=root / "few.json", image_root=folder / "images"
    )
    return NAME


@pytest.fixture
def explained(
    dataset: str, repository: Path, tmp_path: Path
) -> Callable[..., dict[str, dict[str, Any]]]:
    """A function (plant, *options) -> explanation.json of the model with that fault."""

    def run(plant: Callable[[Any], None], *options: Any) -> dict[str, dict[str, Any]]:
        cfg = _cfg(repository, tmp_path, options)
        spec = fit_config(cfg, eval_only=True)
        cfg = spec.resolve(cfg)
        torch.manual_seed(0)
        model = build_model(cfg, spec)
        load_trained_model(model, cfg.MODEL.WEIGHTS, spec.classes)
        with torch.no_grad():
            plant(model)
        evaluate_model(cfg, spec, model)
        path = tmp_path / "inference" / dataset / "explanation.json"
        content: dict[str, dict[str, Any]] = json.loads(path.read_text())
        return content

    return run


def _cfg(repository: Path, folder: Path, options: tuple[Any, ...]) -> CfgNode:
    shapes = repository / "configs" / "shapes"
    places = [
        *("DATASETS.TRAIN", "()", "DATASETS.TEST", f"('{NAME}',)", "OUTPUT_DIR", str(folder)),
        *("MODEL.WEIGHTS", str(shapes / "shapes_source.pth")),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0),
    ]
    return load_config(str(shapes / "mask_rcnn_source.yaml"), [*places, *options])


def healthy(model: Any) -> None:
    """As trained."""


def permute_classes(model: Any) -> None:
    order = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    boxes, masks = model.roi_heads.box_predictor, model.roi_heads.mask_head.predictor
    for layer, rows in ((boxes.cls_score, 1), (boxes.bbox_pred, 4), (masks, 1)):
        for tensor in (layer.weight, layer.bias):
            own = tensor[: 8 * rows].clone()
            tensor[: 8 * rows] = own.view(8, rows, -1)[order].reshape(own.shape)


def zero_masks(model: Any) -> None:
    """Every mask fills its box."""
    for parameter in model.roi_heads.mask_head.predictor.parameters():
        parameter.zero_()


def noisy_boxes(model: Any) -> None:
    weight = model.roi_heads.box_predictor.bbox_pred.weight
    weight += 0.2 * torch.randn_like(weight)


def shifted_boxes(model: Any) -> None:
    model.roi_heads.box_predictor.bbox_pred.bias.view(8, 4)[:, :2] += 4.0


def alike_classes(model: Any) -> None:
    for tensor in model.roi_heads.box_predictor.cls_score.parameters():
        tensor[:8] = tensor[:8].mean(dim=0)


def random_rpn(model: Any) -> None:
    """Random biases, too: nothing in the weights tells that they are."""
    for parameter in model.proposal_generator.parameters():
        nn.init.normal_(parameter, std=0.05)


def fresh_rpn(model: Any) -> None:
    _as_initialised(model.proposal_generator)


def fresh_predictor(model: Any) -> None:
    _as_initialised(model.roi_heads.box_predictor)


def fresh_masks(model: Any) -> None:
    _as_initialised(model.roi_heads.mask_head)


def _as_initialised(part: nn.Module) -> None:
    for name, parameter in part.named_parameters():
        parameter.zero_() if name.endswith("bias") else nn.init.normal_(parameter, std=0.01)


def random_backbone(model: Any) -> None:
    for parameter in model.backbone.bottom_up.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)


def random_everything(model: Any) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)


FAULTS: list[tuple[Callable[[Any], None], tuple[Any, ...], str, str]] = [
    # plant, options, first cause, the setting or part that the sentence names
    (random_everything, (), "chance", ""),
    (fresh_rpn, (), "untrained", "RPN"),
    (fresh_predictor, (), "untrained", "box predictor"),
    (fresh_masks, (), "untrained", "mask head"),
    # With classes in their order one label in four is right: that proves no other order.
    (permute_classes, (), "classification", ""),
    (
        healthy,
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.999),
        "all under the score threshold",
        "0.999",
    ),
    (healthy, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5), "score threshold", "0.5"),
    (random_rpn, (), "proposals", "RPN"),
    (healthy, ("MODEL.RPN.POST_NMS_TOPK_TEST", 3), "proposals", "POST_NMS_TOPK_TEST (now 3"),
    (healthy, ("MODEL.RPN.PRE_NMS_TOPK_TEST", 3), "proposals", "PRE_NMS_TOPK_TEST (now 3"),
    (healthy, ("MODEL.RPN.NMS_THRESH", 0.05), "proposals", "NMS_THRESH (now 0.05"),
    (healthy, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3), "score threshold", "0.3"),
    (healthy, ("TEST.DETECTIONS_PER_IMAGE", 2), "detections per image", "16 of 40"),
    (healthy, ("INPUT.MIN_SIZE_TEST", 400, "INPUT.MAX_SIZE_TEST", 800), "input size", "400"),
    (random_backbone, (), "nothing found", "0 of 40"),
    (alike_classes, (), "classification", ""),
    (noisy_boxes, (), "localisation", ""),
    (shifted_boxes, (), "localisation", ""),
    (zero_masks, (), "masks behind boxes", ""),
    (healthy, ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 1.0), "duplicate", "(now 1)"),
]


@pytest.mark.parametrize(("plant", "options", "cause", "named"), FAULTS)
def test_the_planted_fault_comes_first(
    plant: Callable[[Any], None],
    options: tuple[Any, ...],
    cause: str,
    named: str,
    explained: Callable[..., dict[str, dict[str, Any]]],
) -> None:
    content = explained(plant, *options)
    assert list(content) == ["segm", "bbox"]
    first = content["segm"]
    assert first["causes"][0]["name"] == cause, first["sentence"]
    assert named in first["sentence"]


def test_none_of_the_settings_is_blamed_for_a_healthy_model(
    explained: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    content = explained(healthy)
    for explanation in content.values():
        # this model takes one shape for another, by itself
        assert explanation["causes"][0]["name"] == "classification"
        kinds = {*explanation["kinds"], "inexact boxes", "inexact masks"}
        assert {cause["name"] for cause in explanation["causes"]} <= kinds
    folder = tmp_path / "inference" / NAME
    assert json.loads((folder / "settings.json").read_text())["untrained"] == []
    recall = json.loads((folder / "proposals.json").read_text())["recall"]
    assert recall["100"]["all"] == recall["1000"]["all"] > 0.9  # 100 is all that there are
    assert recall["100"]["large"] is None
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())[NAME]
    for task, explanation in content.items():
        assert explanation["figures"]["ap50"] == pytest.approx(evaluation[task]["AP50"], abs=1e-9)
        assert explanation["figures"]["ap"] == pytest.approx(evaluation[task]["AP"], abs=1e-9)


@pytest.mark.parametrize("swapped", [True, False])
def test_two_groups_of_classes_that_are_swapped(
    swapped: bool, explained: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    """The model tells these groups of shapes apart, though not the shapes within them."""
    explained(healthy)
    folder = tmp_path / "inference" / NAME
    truth_file, results_file = folder / f"{NAME}_ground_truth.json", folder / RESULTS_FILE
    truth, results = json.loads(truth_file.read_text()), json.loads(results_file.read_text())
    places = {category["id"]: place for place, category in enumerate(truth["categories"])}
    for record in (*truth["annotations"], *results):
        record["category_id"] = 1 if places[record["category_id"]] in (0, 1, 2, 7) else 2
    truth["categories"] = [{"id": 1, "name": "round"}, {"id": 2, "name": "edgy"}]
    for result in results if swapped else ():
        result["category_id"] = 3 - result["category_id"]
    truth_file.write_text(json.dumps(truth))
    results_file.write_text(json.dumps(results))
    for explanation in explain_folder(folder).values():
        assert (explanation.causes[0].name == "classes") is swapped, explanation.sentence
        proven = {"round": "edgy", "edgy": "round"} if swapped else {}
        assert explanation.figures.renaming == proven
