"""Configs that are refused, and whole runs that extend the shapes detector and distil it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import SOURCE_CLASSES, TARGET_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.incremental.distillation import check_distillation
from transfer_maskrcnn.surgery.load import load_weights

Toy = Callable[..., CfgNode]
PARTS = {"loss_distill_cls", "loss_distill_box", "loss_distill_mask", "loss_distill_rpn"}
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0),
    *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
    *("MODEL.TRANSFER.DISTILLATION", 1.0, "DATASETS.TEST", ()),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ()),
    *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 1e-3, "SOLVER.CHECKPOINT_PERIOD", 2),
]
FIXED_VIEWS = ("INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", (128,))


@pytest.fixture
def make(repository: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """make(*opts, output="output") -> the fitted config of three iterations on four images.

    Of their ten shapes, star, heart and ring are annotated; the source knows ring.
    """
    name = f"new_{tmp_path.name}"
    write_split(
        ShapesSplit("new", TARGET_CLASSES, 4, 5, unannotated=SOURCE_CLASSES), tmp_path / "new"
    )
    register_dataset(
        name,
        format="coco",
        annotations=tmp_path / "new" / "annotations.json",
        image_root=tmp_path / "new" / "images",
    )

    def config(*opts: Any, output: str = "output") -> CfgNode:
        weights = str(repository / "configs/shapes/shapes_source.pth")
        places = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / output)]
        base = str(repository / "configs/shapes/Base-shapes.yaml")
        cfg = load_config(base, [*TINY, *places, "DATASETS.TRAIN", (name,), *opts])
        return fit_config(cfg).resolve(cfg)

    return config


@pytest.mark.slow
def test_resumed_losses_are_the_same(
    make: Callable[..., CfgNode], train: Callable[..., Any], tmp_path: Path
) -> None:
    whole = train(make(output="whole"))
    assert all(losses.keys() >= PARTS for losses in whole.losses)
    train(make("SOLVER.MAX_ITER", 2))
    resumed = train(make(), resume=True)
    assert resumed.losses == whole.losses[2:]
    plain = train(make("MODEL.TRANSFER.DISTILLATION", 0.0, output="plain"))
    changed = PARTS | {"total_loss", "loss_cls"}
    own = {k: v for k, v in whole.losses[0].items() if k not in changed}
    alone = {k: v for k, v in plain.losses[0].items() if k not in changed}
    assert whole.losses[0]["loss_cls"] < plain.losses[0]["loss_cls"], "background may be old"
    assert own == alone, "the first step's other losses are those without distillation"
    checkpoints = [tmp_path / o / "model_final.safetensors" for o in ("whole", "plain")]
    mine, others = (load_weights(path).tensors for path in checkpoints)
    assert mine.keys() == others.keys()


@pytest.mark.parametrize("preset", ["backbone", "backbone_fpn"])
@pytest.mark.slow
def test_cached_features_give_the_same_losses(
    make: Callable[..., CfgNode], train: Callable[..., Any], computed: list[int], preset: str
) -> None:
    opts = ("MODEL.TRANSFER.FREEZE", preset, *FIXED_VIEWS, "MODEL.TRANSFER.CACHE_FEATURES")
    plain = train(make(*opts, "off", output="plain"))
    assert not computed
    cached = train(make(*opts, "memory", output="cached"))
    assert len(computed) == 4
    assert cached.difference(plain) < 1e-5
    assert cached.losses[0].keys() >= PARTS


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.slow
def test_classes_without_an_instance_are_named_once(
    make: Callable[..., CfgNode],
    train: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    labelled: bool,
) -> None:
    content = json.loads((tmp_path / "new/annotations.json").read_text())
    content["categories"].append({"id": 99, "name": "circle"})
    (tmp_path / "listed.json").write_text(json.dumps(content))
    name = f"listed_{tmp_path.name}"
    places = tmp_path / "listed.json", tmp_path / "new" / "images"
    register_dataset(name, format="coco", annotations=places[0], image_root=places[1])
    opts = ["DATASETS.TRAIN", (name,), "SOLVER.MAX_ITER", 1]
    train(make(*opts, "MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", labelled))
    assert sum("no instance of 'circle'" in text for text in caplog.messages) == 1


def test_another_classifier_than_the_sources_is_refused(make: Callable[..., CfgNode]) -> None:
    with pytest.raises(ConfigError, match=r"is 20\.0 here and 0\.0 in .*; set .*SCALE 0\.0, or"):
        make("MODEL.ROI_BOX_HEAD.COSINE_SCALE", 20.0)


def test_it_is_looked_at_before_pseudo_labels_are(make: Callable[..., CfgNode]) -> None:
    labels = ["MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", True]
    with pytest.raises(ConfigError, match=r"DISTILLATION 1\.0 cannot work with"):
        make(*labels, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True)


@pytest.mark.slow
def test_a_teacher_that_is_gone(make: Callable[..., CfgNode], train: Callable[..., Any]) -> None:
    cfg = make("SOLVER.MAX_ITER", 1)
    train(cfg)  # its model knows the classes, so that nothing else misses the file
    with pytest.raises(WeightFileError, match=r"^MODEL\.TRANSFER\.DISTILLATION 1\.0 learns from"):
        make("MODEL.WEIGHTS", "gone.pth")


REFUSED = [
    # options beside DISTILLATION 1.0 and EXTEND, what the message names
    (["MODEL.TRANSFER.DISTILLATION", -1.0], "is -1.0; expected 0.0 (off)"),
    (["MODEL.TRANSFER.DISTILLATION", float("nan")], "is nan"),
    (["MODEL.TRANSFER.EXTEND", False], "MODEL.TRANSFER.EXTEND is False"),
    (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], "expected StandardROIHeads or Res5ROIHeads"),
    (["MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"], "expected MaskRCNNConvUpsampleHead"),
    (["MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON True; expected False"),
    (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "expected GeneralizedRCNN"),
    (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "expected RPN"),
    (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True], "USE_SIGMOID_CE True; expected False"),
]


@pytest.mark.parametrize(("opts", "message"), REFUSED)
def test_refused_before_training(toy: Toy, opts: list[Any], message: str) -> None:
    cfg = toy()
    cfg.defrost()
    cfg.merge_from_list(["MODEL.TRANSFER.DISTILLATION", 1.0, "MODEL.TRANSFER.EXTEND", True])
    cfg.merge_from_list(opts)
    with pytest.raises(ConfigError, match="DISTILLATION") as error:
        check_distillation(cfg)
    assert message in str(error.value)
