import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.file_io import PathManager
from torch import nn

import transfer_maskrcnn
from transfer_maskrcnn.config import add_transfer_config
from transfer_maskrcnn.errors import TransferPlanError, WeightFileError
from transfer_maskrcnn.surgery.hook import WeightSurgeryHook, source_class_names, transfer_weights
from transfer_maskrcnn.surgery.load import load_weights
from transfer_maskrcnn.surgery.plan import plan_transfer

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
SCORE = "roi_heads.box_predictor.cls_score.weight"
Build = Callable[..., nn.Module]


def batch(bitmask: bool = False) -> list[dict[str, Any]]:
    """One 64 x 64 image with one triangle of class 1."""
    generator = torch.Generator().manual_seed(0)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    polygons = PolygonMasks([[[10.0, 10.0, 50.0, 10.0, 10.0, 50.0]]])
    instances.gt_masks = BitMasks.from_polygon_masks(polygons, 64, 64) if bitmask else polygons
    pixels = torch.randint(0, 255, (3, 64, 64), generator=generator, dtype=torch.uint8)
    return [{"image": pixels, "instances": instances, "height": 64, "width": 64}]


class Trainer(DefaultTrainer):
    """A stock DefaultTrainer on one image."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterator[list[dict[str, Any]]]:
        return repeat(batch())


@pytest.fixture
def source(build: Build, tmp_path: Path) -> Path:
    """A detector of three classes, as training leaves it."""
    path = tmp_path / "source.pth"
    torch.save({"model": build(MASK, 3, seed=0).state_dict()}, path)
    return path


def run_cfg(make_cfg: Callable[..., CfgNode], tmp_path: Path, *opts: Any) -> CfgNode:
    cfg = make_cfg(MASK, 3)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    cfg.merge_from_list(list(opts))
    return cfg


def final(tmp_path: Path) -> dict[str, torch.Tensor]:
    return torch.load(tmp_path / "out" / "model_final.pth", weights_only=False)["model"]


@pytest.mark.parametrize("loaded_before", [True, False])
def test_default_trainer(
    loaded_before: bool, source: Path, tmp_path: Path, make_cfg: Callable[..., CfgNode]
) -> None:
    """What resume_or_load copied by position is undone; frozen parts end as they began."""
    trainer = Trainer(run_cfg(make_cfg, tmp_path, "MODEL.WEIGHTS", str(source)))
    hook = WeightSurgeryHook(str(source), output_dir=str(tmp_path / "out"))
    trainer.register_hooks([hook])
    weights = torch.load(source, weights_only=True)["model"]
    if loaded_before:
        trainer.resume_or_load(resume=False)
        assert torch.equal(trainer.model.state_dict()[SCORE], weights[SCORE])
    trainer.train()
    trained = final(tmp_path)
    assert not (trained[SCORE] == weights[SCORE]).any()
    assert trained[SCORE].std() == pytest.approx(0.01, rel=0.4)
    frozen = {n for n, p in trainer.model.named_parameters() if not p.requires_grad}
    buffers = {n for n, _ in trainer.model.named_buffers() if n in trained}
    assert len(frozen) == 11
    assert all(torch.equal(trained[name], weights[name]) for name in frozen | buffers)
    assert not torch.equal(
        trained["backbone.fpn_lateral2.weight"], weights["backbone.fpn_lateral2.weight"]
    )
    assert hook.plan is not None
    assert (tmp_path / "out" / "transfer_plan.json").read_text() == hook.plan.to_json()


def test_resumed_run_is_left_untouched(
    source: Path, tmp_path: Path, make_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = run_cfg(make_cfg, tmp_path, "MODEL.WEIGHTS", str(source))
    first = Trainer(cfg)
    first.register_hooks([WeightSurgeryHook(str(source))])
    first.train()
    before = final(tmp_path)
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.BASE_LR = 0.0
    second = Trainer(cfg)
    hook = WeightSurgeryHook("/does/not/exist.pth", output_dir=str(tmp_path / "other"))
    second.register_hooks([hook])
    second.resume_or_load(resume=True)
    for group in second.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = group["momentum"] = group["weight_decay"] = 0.0
    second.scheduler.base_lrs = [0.0] * len(second.scheduler.base_lrs)
    with caplog.at_level(logging.INFO):
        second.train()
    assert "Resumed at iteration 2" in caplog.text
    assert hook.plan is None
    assert not (tmp_path / "other").exists()
    assert all(torch.equal(v, before[k]) for k, v in final(tmp_path).items())


def test_simple_trainer_and_pointrend(build: Build, tmp_path: Path) -> None:
    """No config anywhere: a model, a loader, an optimizer, and PointRend's own heads."""
    weights = build("pointrend", 3, seed=0).state_dict()
    torch.save(weights, tmp_path / "pointrend.pth")
    model = build("pointrend", 3, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = SimpleTrainer(model, repeat(batch(bitmask=True)), optimizer)
    trainer.register_hooks([WeightSurgeryHook(str(tmp_path / "pointrend.pth"))])
    built = model.state_dict()[SCORE].clone()
    trainer.train(0, 1)
    assert torch.equal(model.state_dict()[SCORE], built)
    name = "roi_heads.mask_head.coarse_head.fc1.weight"
    assert torch.equal(model.state_dict()[name], weights[name])


def test_from_cfg(
    source: Path, tmp_path: Path, make_cfg: Callable[..., CfgNode], build: Build
) -> None:
    MetadataCatalog.get("surgery_from_cfg").thing_classes = ["owl", "newt", "cat"]
    cfg = run_cfg(make_cfg, tmp_path, "MODEL.WEIGHTS", str(source))
    add_transfer_config(cfg)
    cfg.DATASETS.TRAIN = ("surgery_from_cfg",)
    cfg.MODEL.TRANSFER.KEEP = "class_rows"
    cfg.MODEL.TRANSFER.SOURCE_CLASSES = ["cat", "dog", "owl"]
    cfg.MODEL.TRANSFER.CLASS_MAP = [["dog", "newt"]]
    hook = WeightSurgeryHook.from_cfg(cfg)
    trainer = SimpleTrainer(build(MASK, 3, seed=1), [], None)
    trainer.register_hooks([hook])
    trainer.start_iter = 0
    hook.before_train()
    weights = torch.load(source, weights_only=True)["model"]
    assert torch.equal(trainer.model.state_dict()[SCORE], weights[SCORE][[2, 1, 0, 3]])
    plan = json.loads((tmp_path / "out" / "transfer_plan.json").read_text())
    assert [row["source"] for row in plan["classes"]] == ["owl", "dog", "cat"]

    cfg.MODEL.TRANSFER.ENABLED = False
    hook = WeightSurgeryHook.from_cfg(cfg)
    trainer.register_hooks([hook])
    hook.before_train()
    assert hook.plan is None


def test_not_strict_warns(build: Build, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build(MASK, 3, seed=1)
    with pytest.raises(TransferPlanError, match="about to be frozen"):
        transfer_weights(model, "", keep="random_init")
    with caplog.at_level(logging.INFO):
        plan = transfer_weights(model, "", keep="random_init", strict=False)
    assert plan.loaded_fraction() == 0
    assert "about to be frozen" in caplog.text
    assert "0.0% of the target's parameters are loaded" in caplog.text


ZOO = "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
# where the file lies, rows of its classifier, number of class names
KNOWN = [
    ("COCO-InstanceSegmentation", 81, 80),
    ("LVISv0.5-InstanceSegmentation", 1231, 1230),
    ("somewhere", 81, None),
]


@pytest.mark.parametrize(("family", "rows", "count"), KNOWN)
def test_class_names_of_zoo_files(
    family: str, rows: int, count: int | None, tmp_path: Path
) -> None:
    path = tmp_path / family / ZOO
    path.parent.mkdir(parents=True)
    torch.save({"model": {SCORE: torch.ones(rows, 2)}}, path)
    found = load_weights(f"{path}?matching_heuristics=True").classes
    assert (found and len(found)) == count
    named = load_weights(path, classes=source_class_names(["coco_2017_val"])).classes
    assert named is not None
    assert named[0] == "person"
    assert load_weights(path, classes=["cat", "dog"]).classes == ("cat", "dog")


# address, options of the model, words of the problem: what zoo files were trained with
TRAINED_WITH = [
    (f"COCO-InstanceSegmentation/{ZOO}", [], "MODEL.PIXEL_STD [1.0,1.0,1.0]"),
    (
        f"COCO-InstanceSegmentation/{ZOO}",
        ["MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "MODEL.RESNETS.STRIDE_IN_1X1", False],
        "MODEL.RESNETS.STRIDE_IN_1X1 True",
    ),
    ("ImageNetPretrained/MSRA/R-50.pkl", ["INPUT.FORMAT", "RGB"], "INPUT.FORMAT BGR"),
    ("ImageNetPretrained/FAIR/X-101-32x8d.pkl", [], "STRIDE_IN_1X1 False"),
    ("ImageNetPretrained/torchvision/R-50.pkl", [], "INPUT.FORMAT RGB"),
    # another project's file, and one that has the zoo's form but no such config
    ("ImageNetPretrained/mine/R-50.pkl", [], None),
    ("new_baselines/mine/42047764/model_final_bb69de.pkl", [], None),
]


@pytest.mark.parametrize(("address", "opts", "words"), TRAINED_WITH)
def test_pixels_and_strides_of_zoo_files(
    address: str, opts: list[Any], words: str | None, tmp_path: Path, build: Build
) -> None:
    path = tmp_path / address
    path.parent.mkdir(parents=True)
    model = build(MASK, 80, opts)
    torch.save({"model": model.state_dict()}, path)
    problems = plan_transfer(load_weights(str(path)), model).problems
    assert [p.code for p in problems] == ([] if words is None else ["input_differs"])
    assert words is None or words in problems[0].remedy


def test_class_names_of_torchvisions_detector(tmp_path: Path) -> None:
    """91 rows: background, then COCO's category ids, ten of which have no class."""
    state = {"backbone.body.conv1.weight": torch.ones(1, 3, 7, 7)}
    for leaf, shape in (("weight", (91, 2)), ("bias", (91,))):
        state[f"roi_heads.box_predictor.cls_score.{leaf}"] = torch.ones(shape)
    torch.save(state, tmp_path / "maskrcnn.pth")
    classes = load_weights(str(tmp_path / "maskrcnn.pth")).classes
    assert classes is not None
    assert (len(classes), classes.count("")) == (90, 10)
    assert (classes[0], classes[9], classes[12], classes[89]) == (
        "person",
        "traffic light",
        "stop sign",
        "toothbrush",
    )


def test_an_address_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str, **_: Any) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(PathManager, "get_local_path", unreachable)
    with pytest.raises(WeightFileError, match=r"catalog://a.pkl: cannot be fetched .*Name or"):
        load_weights("catalog://a.pkl")


def test_the_public_names() -> None:
    assert transfer_maskrcnn.transfer_weights is transfer_weights
    assert transfer_maskrcnn.load_weights is load_weights


def test_missing_file() -> None:
    with pytest.raises(WeightFileError, match=r"/no/such/file.pth: no such weight file"):
        load_weights("/no/such/file.pth")


DDP = """
import sys, torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from torch import distributed, nn
from transfer_maskrcnn.surgery.hook import WeightSurgeryHook

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(rank)
source = torch.load(f"{folder}/source.pth", weights_only=True)["model"]
def build(cfg):
    model = nn.Module()
    for name, tensor in source.items():
        module, *path = model, *name.split(".")
        for part in path[:-1]:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(path[-1], nn.Parameter(torch.randn(tensor.shape)))
    return model

model = build(None)
parallel = nn.parallel.DistributedDataParallel(model)
DetectionCheckpointer(parallel).load(f"{folder}/source.pth")
torch.rand(rank)  # the ranks stand at different points of their random sequences
trainer = SimpleTrainer(parallel, [], None)
trainer.start_iter, trainer.cfg, trainer.build_model = 0, None, build
hook = WeightSurgeryHook(f"{folder}/source.pth", output_dir=f"{folder}/out{rank}")
trainer.register_hooks([hook])
hook.before_train()
torch.save(model.state_dict(), f"{folder}/rank{rank}.pth")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_same_weights(tiny: Build, tmp_path: Path) -> None:
    torch.save({"model": tiny(3).state_dict()}, tmp_path / "source.pth")
    (tmp_path / "run.py").write_text(DDP)
    command = [sys.executable, str(tmp_path / "run.py")]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    source = tiny(3).state_dict()
    assert torch.equal(
        first["roi_heads.box_head.fc1.weight"], source["roi_heads.box_head.fc1.weight"]
    )
    assert not torch.equal(first[SCORE], source[SCORE])
    written = sorted(path.parent.name for path in tmp_path.glob("out*/transfer_plan.json"))
    assert written == ["out0"]
