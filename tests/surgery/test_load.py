import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.data import MetadataCatalog
from safetensors.torch import save_file

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery.load import load_weights, zoo_classes
from transfer_maskrcnn.surgery.read import NUMPY_GLOBALS

TORCH = tuple(int(x) for x in torch.__version__.split(".")[:2])
needs_safe_globals = pytest.mark.skipif(TORCH < (2, 6), reason="torch has no named safe globals")
STATE = {"backbone.res2.0.conv1.weight": torch.arange(6.0).reshape(2, 3)}
ARRAYS = {k: v.numpy() for k, v in STATE.items()}


class Planted:
    """Unpickling an instance calls ``function``."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content, protocol))
    elif path.suffix == ".pth":
        torch.save(content, path)
    else:
        save_file(content, path)
    return path


# file name, what is in it: every place where a state dict may lie
FILES = [
    ("zoo.pkl", {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}),
    ("imagenet.pkl", {"model": ARRAYS, "__author__": "me", "matching_heuristics": True}),
    ("plain.pkl", ARRAYS),
    ("final.pth", {"model": STATE}),
    ("state.pth", STATE),
    ("numpy.pth", {"model": ARRAYS}),
    ("parallel.pth", {"model": {f"module.{k}": v for k, v in STATE.items()}}),
    ("lightning.pth", {"state_dict": OrderedDict(STATE), "epoch": 3}),
    ("pycls.pth", {"model_state": STATE}),
    ("state.safetensors", STATE),
]


@pytest.mark.parametrize(("name", "content"), FILES)
def test_where_weights_lie(name: str, content: Any, tmp_path: Path) -> None:
    if name == "numpy.pth" and TORCH < (2, 6):
        pytest.skip("torch has no named safe globals")
    source = load_weights(written(tmp_path / name, content))
    assert list(source.tensors) == list(STATE)
    assert torch.equal(source.tensors["backbone.res2.0.conv1.weight"], next(iter(STATE.values())))
    assert (source.classes, source.metadata, source.naming) == (None, None, "detectron2")
    assert source.path == str(tmp_path / name)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    for made, called in (("a.pkl", "b.pth"), ("a.pth", "b.pkl"), ("a.safetensors", "c.pth")):
        (tmp_path / called).write_bytes(
            written(tmp_path / made, ARRAYS if made == "a.pkl" else STATE).read_bytes()
        )
        assert list(load_weights(tmp_path / called).tensors) == list(STATE)


def test_legacy_torch_format(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert list(load_weights(tmp_path / "old.pth").tensors) == list(STATE)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_pickle_protocols(protocol: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pkl", {"model": ARRAYS, "__author__": "me"}, protocol)
    assert list(load_weights(path).tensors) == list(STATE)


# dtype, byte order, memory layout
ARRAY_KINDS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.arange(6, dtype=">f4").reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
    np.arange(12, dtype=np.int64)[::2],
    np.full((), 3.5),
    np.zeros((0, 4), dtype=np.float32),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAY_KINDS, ids=lambda a: f"{a.dtype.str}{a.shape}")
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_numbers(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pkl", {"w": array}, protocol)
    tensor = load_weights(path).tensors["w"]
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), array)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """The model zoo's oldest files: module names, and bytes as latin-1 text."""
    text = (
        b"\x80\x02}q\x00U\x07conv1_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01"
        b"\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08"
        + np.array([1.0, -2.5], "<f4").tobytes()
        + b"q\x0ftq\x10bs."
    )
    (tmp_path / "r50.pkl").write_bytes(text)
    source = load_weights(tmp_path / "r50.pkl")
    assert source.naming == "caffe2"
    assert source.renamed == {"stem.conv1.weight": "conv1_w"}
    assert source.tensors["stem.conv1.weight"].tolist() == [1.0, -2.5]


@needs_safe_globals
def test_a_training_checkpoint_of_stock_detectron2(tmp_path: Path) -> None:
    """Optimizer, scheduler, hooks, and the numpy numbers that losses leave behind."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    trainer = {
        "iteration": 7,
        "hooks": {"LRScheduler": {"base_lrs": [0.1], "last_epoch": np.int64(8)}},
        "_trainer": {"iteration": 7, "optimizer": optimizer.state_dict()},
    }
    content = {"model": model.state_dict(), "trainer": trainer, "best": np.float64(0.41)}
    source = load_weights(written(tmp_path / "model_0000007.pth", content))
    assert list(source.tensors) == ["weight", "bias"]


def test_weights_are_memory_mapped(tmp_path: Path) -> None:
    """Private mappings: a write to the file's bytes shows, so nothing was copied to memory."""
    for name in ("a.pth", "a.safetensors"):
        path = written(tmp_path / name, {"w": torch.full((4096,), 2.0)})
        tensor = load_weights(path).tensors["w"]
        content = path.read_bytes()
        with path.open("r+b") as f:
            f.seek(content.index(np.full(8, 2.0, np.float32).tobytes()))
            f.write(np.full(8, 7.0, np.float32).tobytes())
        assert tensor[:8].eq(7.0).any(), name


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize(
    ("function", "arguments", "shown"),
    [
        (eval, ("open('/tmp/x', 'w')",), r"\beval\b"),
        (io.open, ("planted", "w"), "io.open"),
        (__import__, ("antigravity",), "__import__"),
    ],
)
def test_code_is_refused_by_name(
    name: str,
    function: Any,
    arguments: tuple,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model: dict[str, Any] = dict(ARRAYS)
    if name == "a.pth":  # older torch refuses numpy arrays there before it comes to the plant
        model = {key: torch.from_numpy(value) for key, value in ARRAYS.items()}
    path = written(tmp_path / name, {"model": model, "x": Planted(function, *arguments)}, 2)
    with pytest.raises(WeightFileError, match=shown.replace("io.open", "(_?io.open)")) as caught:
        load_weights(path)
    assert "TRUST_PICKLE" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
def test_a_planted_system_command(name: str, tmp_path: Path) -> None:
    import os

    path = written(tmp_path / name, {"x": Planted(os.system, f"touch {tmp_path}/ran")})
    with pytest.raises(WeightFileError, match=r"(posix|nt|os)\.system"):
        load_weights(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(WeightFileError, match="no weights"):
        load_weights(path, trust_pickle=True)
    assert (tmp_path / "ran").exists()


def test_numpys_own_reconstructors_never_run() -> None:
    assert all(function.__module__.startswith("transfer_maskrcnn") for function, _ in NUMPY_GLOBALS)


# bytes, words: damaged files and things that are no weight files, a sentence each
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 178000000\n"
ZOO = pickle.dumps({"model": ARRAYS, "__author__": "x"})
NOT_WEIGHTS = [
    (b"", "the file is empty"),
    (POINTER, "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    (b"\n  <html lang='en'>", "a web page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    (b"GIF89a.............", "neither a .pkl, a .pth nor a .safetensors"),
    (ZOO[:-20], "truncated or damaged"),
    (ZOO[:5], "truncated or damaged"),
    (b"PK\x03\x04" + b"\0" * 100, "truncated or damaged"),
    ((2**20).to_bytes(8, "little") + b'{"w"', "truncated or damaged"),
    (pickle.dumps([1, 2]), "holds a list, not a dict"),
    (pickle.dumps({"model": {}, "iteration": 3}), "top-level keys: iteration, model"),
    (pickle.dumps({"w": np.array([None, "x"])}), "a numpy array made of list"),
]


@pytest.mark.parametrize(("content", "words"), NOT_WEIGHTS)
def test_not_weights(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=words) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match="no such weight file"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(WeightFileError, match="holds no trained model"):
        load_weights(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_truncated(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, {"w": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(WeightFileError, match="truncated or damaged"):
        load_weights(path)


def test_given_class_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth", {"model": STATE})
    assert load_weights(path, classes=["cat", "dog"]).classes == ("cat", "dog")
    with_metadata = written(
        tmp_path / "b.pth", {"model": STATE, "transfer_maskrcnn": {"thing_classes": ["cat"]}}
    )
    assert load_weights(with_metadata).classes == ("cat",)
    assert load_weights(with_metadata, classes=["cat"]).classes == ("cat",)
    with pytest.raises(WeightFileError, match=r"\['cat'\], but SOURCE_CLASSES says \['dog'\]"):
        load_weights(with_metadata, classes=["dog"])


ID = "137849600/model_final_f10217.pkl"
# address, dataset whose names its classes have
ADDRESSES = [
    (f"detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/{ID}", "coco_2017_val"),
    # where iopath caches it
    (f"/home/me/.torch/detectron2/COCO-Detection/faster_rcnn_R_50_C4_1x/{ID}", "coco_2017_val"),
    (f"detectron2://COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/{ID}", "keypoints_coco_2017_val"),
    (
        f"detectron2://Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x/{ID}",
        "keypoints_coco_2017_val",
    ),
    (f"detectron2://LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/{ID}", "lvis_v0.5_val"),
    (f"detectron2://Misc/cascade_mask_rcnn_R_50_FPN_3x/{ID}", "coco_2017_val"),
    # other data, and a file that only lies in a folder of that name
    (f"detectron2://Cityscapes/mask_rcnn_R_50_FPN/{ID}", None),
    ("COCO-InstanceSegmentation/mine/model_final.pth", None),
]


@pytest.mark.parametrize(("address", "dataset"), ADDRESSES)
def test_zoo_classes(address: str, dataset: str | None) -> None:
    names = MetadataCatalog.get(dataset).thing_classes if dataset else None
    assert zoo_classes(address) == (names and tuple(names))


def test_a_config_of_the_zoo_tells_the_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By where its file lies once it is fetched, for the config's own name has no such place."""
    path = tmp_path / "COCO-InstanceSegmentation" / "mask_rcnn_R_50_FPN_3x" / ID
    path.parent.mkdir(parents=True)
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.ones(81)}, path)
    monkeypatch.setattr(model_zoo, "get_checkpoint_url", lambda _: str(path))
    source = load_weights("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    assert source.classes == tuple(MetadataCatalog.get("coco_2017_val").thing_classes)
    assert source.expects["INPUT.FORMAT"] == "BGR"


@pytest.mark.parametrize("name", ["ImageNetPretrained/MSRA", "Caffe2Detectron/COCO/x", "x"])
def test_names_that_detectron2s_catalog_lacks(name: str) -> None:
    with pytest.raises(WeightFileError, match="catalog://"):
        load_weights(f"catalog://{name}")


def test_a_file_by_its_url(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"a.weight": torch.ones(2)}}, path)
    assert list(load_weights(path.as_uri()).tensors) == ["a.weight"]


# by key: what only a damaged, or made-up, file says there
SAID = [
    ("thing_classes", 5),
    ("thing_classes", ["a", 5]),
    ("untrained", 5),
    ("untrained", [None]),
    ("tasks", "12"),
    ("config", [1]),
    ("transfer", "x"),
    ("expects", 1.5),
]


@pytest.mark.parametrize(("key", "value"), SAID)
def test_what_a_file_says_of_itself_is_checked(key: str, value: Any, tmp_path: Path) -> None:
    torch.save({"model": STATE, "transfer_maskrcnn": {key: value}}, tmp_path / "a.pth")
    with pytest.raises(WeightFileError, match=f"damaged .{key} is"):
        load_weights(tmp_path / "a.pth")
