"""FastInference against the model by itself, through files and figures of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, inference_context, inference_on_dataset
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import BoxMode
from torch import nn

from transfer_maskrcnn.config import RunSpec, load_config
from transfer_maskrcnn.engine import evaluation as testing
from transfer_maskrcnn.engine.evaluation import evaluate_model
from transfer_maskrcnn.evaluation.coco import InstanceEvaluator
from transfer_maskrcnn.evaluation.inference import EncodedMasks, FastInference
from transfer_maskrcnn.modeling.freezing import freeze

CLASSES = ["cat", "dog", "owl"]
#: height and width of an image, and of what the model gets of it
SIZES = [
    ((48, 64), (96, 128)),
    ((200, 90), (100, 45)),
    ((64, 64), (64, 64)),
    ((31, 517), (40, 200)),
]
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.PIXEL_STD", [58.0, 58.0, 58.0]),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]),
    *("MODEL.ROI_HEADS.NUM_CLASSES", len(CLASSES), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 30),
]


def tiny(*options: Any, config: str = MASK) -> nn.Module:
    """A detector with next to no channels, whose predictions are random but never alike."""
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list([*TINY, *options])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build_model(cfg).eval()
        for name, tensor in model.state_dict().items():
            if "mask_head.predictor" in name or name.endswith("cls_score.weight"):
                tensor.copy_(torch.randn(tensor.shape) * 3)
            elif "bbox_pred.weight" in name:
                tensor.copy_(torch.randn(tensor.shape) * 0.3)
    return model


def images() -> list[list[dict[str, Any]]]:
    """Batches as detectron2's test loader gives them."""
    rng = np.random.default_rng(0)
    return [
        [
            {
                "image": torch.from_numpy(rng.integers(0, 256, (3, *shown), dtype=np.uint8)),
                "height": whole[0],
                "width": whole[1],
                "image_id": number,
            }
        ]
        for number, (whole, shown) in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def dataset() -> Iterator[str]:
    """Two objects an image, with keypoints, too."""

    def objects(height: int, width: int) -> list[dict[str, Any]]:
        boxes = [[2, 3, width // 2, height - 4], [width // 3, 1, width - 1, height // 2]]
        return [
            {
                "bbox": [float(v) for v in box],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": number,
                "segmentation": [[float(box[i]) for i in (0, 1, 2, 1, 2, 3, 0, 3)]],
                "keypoints": [5.0, 6.0, 2] * 17,
            }
            for number, box in enumerate(boxes)
        ]

    def records() -> list[dict[str, Any]]:
        return [
            {
                "file_name": "",
                "image_id": i,
                "height": h,
                "width": w,
                "annotations": objects(h, w),
            }
            for i, ((h, w), _) in enumerate(SIZES)
        ]

    name = "test_inference_objects"
    DatasetCatalog.register(name, records)
    MetadataCatalog.get(name).set(thing_classes=CLASSES)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


class StockEvaluator(InstanceEvaluator):
    """Detectron2's evaluation, on our ground truth."""

    process = COCOEvaluator.process
    _eval_predictions = COCOEvaluator._eval_predictions


def evaluated(
    model: nn.Module, evaluator: type[InstanceEvaluator], dataset: str, folder: Path, tasks: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures, and the results as written."""
    own = evaluator(dataset, str(folder), tasks=tasks, distributed=False, max_dets_per_image=100)
    figures = inference_on_dataset(model, images(), own)
    return figures, json.loads((folder / "coco_instances_results.json").read_text())


MODELS: list[tuple[dict[str, Any], list[Any], list[str]]] = [
    # config, options, tasks
    ({}, [], ["bbox", "segm"]),
    ({}, ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True], ["bbox", "segm"]),
    ({}, ["MODEL.MASK_ON", False], ["bbox"]),
    ({}, ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.4], ["bbox", "segm"]),  # images without any
    ({}, ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0], ["bbox", "segm"]),  # nothing at all
    ({"config": MASK.replace("FPN", "C4")}, [], ["bbox", "segm"]),
    ({}, ["MODEL.KEYPOINT_ON", True], ["bbox", "segm", "keypoints"]),
    ({"config": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"}, [], ["bbox", "segm"]),
    ({"config": "COCO-Detection/retinanet_R_50_FPN_3x.yaml"}, [], ["bbox"]),
]


@pytest.mark.parametrize(("config", "options", "tasks"), MODELS)
def test_the_same_files_and_figures(
    config: dict[str, Any], options: list[Any], tasks: list[str], dataset: str, tmp_path: Path
) -> None:
    model = tiny(*options, **config)
    stock, stock_results = evaluated(model, StockEvaluator, dataset, tmp_path / "stock", tasks)
    ours, our_results = evaluated(
        FastInference(model), InstanceEvaluator, dataset, tmp_path / "ours", tasks
    )
    assert our_results == stock_results
    predictions = [
        torch.load(tmp_path / run / "instances_predictions.pth") for run in ("ours", "stock")
    ]
    assert predictions[0] == predictions[1]
    assert list(ours) == list(stock) == sorted(tasks)
    for task, figures in stock.items():
        assert ours[task] == pytest.approx(figures, rel=0, abs=1e-10, nan_ok=True)


def test_there_is_something_to_compare(dataset: str, tmp_path: Path) -> None:
    _, results = evaluated(
        FastInference(tiny()), InstanceEvaluator, dataset, tmp_path, ["bbox", "segm"]
    )
    assert len(results) > 50
    assert len({r["segmentation"]["counts"] for r in results}) > 40


def test_another_evaluator_finds_masks_one_by_one(dataset: str, tmp_path: Path) -> None:
    tasks = ["bbox", "segm"]
    _, stock = evaluated(tiny(), StockEvaluator, dataset, tmp_path / "stock", tasks)
    _, ours = evaluated(FastInference(tiny()), StockEvaluator, dataset, tmp_path / "ours", tasks)
    assert ours == stock


class Peculiar(GeneralizedRCNN):
    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        return "its own"


def test_any_other_model_speaks_for_itself() -> None:
    model = tiny()
    model.__class__ = Peculiar
    assert FastInference(model)([]) == "its own"


def test_training_gives_losses() -> None:
    model = tiny()
    model.forward = lambda batched_inputs: {"loss": 1}
    assert FastInference(model.train())([]) == {"loss": 1}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_model_of_several_processes() -> None:
    model = tiny()
    (alone,) = FastInference(model)(images()[0])
    (wrapped,) = FastInference(nn.parallel.DistributedDataParallel(model))(images()[0])
    assert isinstance(wrapped["instances"].pred_masks, EncodedMasks)
    assert wrapped["instances"].pred_masks.rles == alone["instances"].pred_masks.rles


@pytest.mark.parametrize("training", [True, False])
def test_modes_come_back_as_without_it(training: bool) -> None:
    modes = []
    for wrap in (lambda model: model, FastInference):
        model = tiny("MODEL.RESNETS.NORM", "BN").train(training)
        freeze(model, "backbone")  # holds the norms of the backbone in eval mode
        with inference_context(wrap(model)):
            assert not any(module.training for module in model.modules())
        modes.append({name: module.training for name, module in model.named_modules()})
    assert modes[0] == modes[1]
    assert modes[1][""] is training


def test_precision_is_that_of_inference_alone() -> None:
    model, seen = tiny(), []
    model.backbone.register_forward_hook(lambda module, args, out: seen.append(out["p3"].dtype))
    (half,) = FastInference(model, torch.bfloat16)(images()[0])
    (full,) = FastInference(model)(images()[0])
    assert seen == [torch.bfloat16, torch.float32]
    for output in (half["instances"], full["instances"]):
        assert output.pred_boxes.tensor.dtype == torch.float32
        assert len(output.pred_masks) == len(output) > 0


def test_the_trainer_evaluates_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def inference(model: nn.Module, *rest: Any) -> Any:
        seen.append(model)
        return {}

    for name in ("build_test_loader", "build_evaluator"):
        monkeypatch.setattr(testing, name, lambda *args: None)
    monkeypatch.setattr(testing, "inference_on_dataset", inference)
    cfg, model = load_config("", ["OUTPUT_DIR", "", "DATASETS.TEST", "('a',)"]), nn.Linear(1, 1)
    fast = FastInference(model)
    evaluate_model(cfg, RunSpec(("x",)), model)
    evaluate_model(cfg, RunSpec(("x",)), fast)
    assert isinstance(seen[0], FastInference)
    assert seen[0].model is model
    assert seen[1:] == [fast]
