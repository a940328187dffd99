"""A full-size file in the model zoo's own format: every tensor is named, and it costs little."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2 import model_zoo
from detectron2.modeling import build_model

from transfer_maskrcnn.surgery.hook import transfer_weights
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.plan import plan_transfer

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
CLASSES = ["person", "balloon"]


@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """170 MB: R50-FPN, 80 classes, zoo keys (old cell anchors and pixel statistics too)."""
    cfg = model_zoo.get_config(f"{CONFIG}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    state = {k: v.numpy() for k, v in build_model(cfg).state_dict().items()}
    state["pixel_mean"] = np.ones((3, 1, 1), np.float32)
    state["proposal_generator.anchor_generator.cell_anchors.0"] = np.ones((3, 4), np.float32)
    path = tmp_path_factory.mktemp("zoo") / CONFIG / "137849600" / "model_final_f10217.pkl"
    path.parent.mkdir(parents=True)
    with path.open("wb") as f:
        pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, f, protocol=2)
    return path


def test_every_tensor_is_named_once(zoo_file: Path) -> None:
    cfg = model_zoo.get_config(f"{CONFIG}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    model = build_model(cfg)
    source = load_weights(str(zoo_file))
    plan = plan_transfer(source, model, target_classes=CLASSES)
    plan.check()
    content = json.loads(plan.to_json())["tensors"]
    assert sorted(t["target"] for t in content if t["target"]) == sorted(model.state_dict())
    assert sorted(t["source"] for t in content if t["source"]) == sorted(source.tensors)
    assert all(t["reason"] for t in content)
    # tensors; parameters: the whole R50-FPN detector but for its three predictors
    assert plan.totals()["kept"] == {"tensors": 301, "parameters": 43964751, "moved": 43964751}
    assert plan.totals()["initialised"]["tensors"] == 6
    assert plan.totals()["dropped"]["tensors"] == 8
    rows = [line.split() for line in plan.table().splitlines()]
    assert ["backbone.bottom_up.res4", "kept", "95", "7,098,368"] in rows

    moved = transfer_weights(model, str(zoo_file), keep="class_rows", target_classes=CLASSES)
    assert [row.source for row in moved.classes] == ["person", None]
