"""The one door for weights: any file, run folder or address -> :class:`SourceWeights`.

Nothing else in this package opens a weight file. Opening one never runs code from it, unless
``trust_pickle`` asks for that.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import detectron2.checkpoint  # noqa: F401  (makes catalog:// known)
import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.files import file_digest, shipped
from transfer_maskrcnn.surgery.names import TORCHVISION_EXPECTS, part_of, translate
from transfer_maskrcnn.surgery.read import METADATA_KEY, MOST_TENSORS, read_file

#: in a checkpoint's metadata: names of tensors that were initialised and never trained
UNTRAINED_KEY = "untrained"
#: what a finished run exports
FINAL_FILE = "model_final.safetensors"
#: with TEST.BEST_METRIC: its best checkpoint, which the final file then holds, and the last weights
BEST_NAME, LAST_FILE = "model_best", "model_last.safetensors"

_REMOTE = ("detectron2://", "https://", "http://")
_STATE_KEYS = ("model", "model_state", "state_dict", "model_state_dict", "blobs")
# detectron2's mark; names match here anyway
_HEURISTICS = re.compile(r"\?matching_heuristics=\w+$")
_TORCHVISION_ROWS = 90  # COCO's category ids 1..90, of which 80 exist

# model-zoo files lie under <family>/<config>/<id>/model_final_<hash>.pkl
_ZOO = re.compile(r"([\w.-]+)/([\w.-]+)/\d{8,9}/model_final_[0-9a-f]{6}\.pkl$")
_COCO_FAMILIES = (
    *("COCO-Detection", "COCO-InstanceSegmentation", "COCO-PanopticSegmentation"),
    *("Detectron1-Comparisons", "Misc", "new_baselines"),
)
_LVIS_FAMILIES = {
    "LVISv0.5-InstanceSegmentation": "lvis_v0.5",
    "LVISv1-InstanceSegmentation": "lvis_v1",
}
_INPUT_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    "MODEL.RESNETS.STRIDE_IN_1X1",
)
# what the backbones under ImageNetPretrained/ were trained with
_BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "MSRA/": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "FAIR/X-101": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "torchvision/": TORCHVISION_EXPECTS,
}


@dataclass(frozen=True)
class SourceWeights:
    """What a weight file holds, under detectron2's names.

    Attributes:
        tensors: name -> tensor. A name is a full detectron2 name or the end of one
            (``res2.0.conv1.weight``). Memory-mapped where the file allows it, and shared by all who
            open the file; never write to them.
        path: the address it was opened by, for messages.
        classes: class names in the order of the classifier's rows, background excluded; "" for a
            row that has no class. None where nobody knows them.
        naming: ``detectron2``, ``caffe2``, ``torchvision`` (its Mask R-CNN) or
            ``torchvision backbone`` (a ResNet of torchvision or timm).
        metadata: what a checkpoint of this project says about itself, or None.
        renamed: our name -> name in the file, where they differ.
        expects: configuration key -> value that these weights need, where the kind of file tells.
    """

    tensors: Mapping[str, Tensor]
    path: str = ""
    classes: tuple[str, ...] | None = None
    naming: str = "detectron2"
    metadata: Mapping[str, Any] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)


def load_weights(
    address: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    trust_pickle: bool = False,
) -> SourceWeights:
    """Opens weights, once per process for each state of the file, and finds their class names::

        source = load_weights("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
        source.classes[:2]  # ("person", "bicycle")

    Args:
        address: a ``.pkl``, ``.pth`` or ``.safetensors`` file (the content decides, not the name),
            the OUTPUT_DIR of a run, ``detectron2://``, ``https://``, ``catalog://``, or a config of
            the model zoo (``COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml``). A
            ``?matching_heuristics=True`` behind it changes nothing: names are always matched. ""
            means no weights.
        classes: its class names, for a file that does not carry them. The model zoo's and
            torchvision's detectors need none: their address or their rows say what they are.
        trust_pickle: unpickle whatever the file says. This runs code from it.

    Returns:
        tensors under detectron2's names, with what is known of them; only to be read.

    Raises:
        WeightFileError: it cannot be fetched, is missing, damaged or no weight file, asks to run
            code, or carries other class names than ``classes``.
    """
    address = os.fspath(address)
    if not address:
        return SourceWeights({})
    path = local_file(address)
    source = _opened(str(path), trust_pickle, _state(path))
    own, plain = source.classes, _HEURISTICS.sub("", address)
    if own and classes and own != tuple(classes):
        raise WeightFileError(
            f"{address}: carries the class names {list(own)}, but SOURCE_CLASSES says "
            f"{list(classes)}. Remove SOURCE_CLASSES, the file knows."
        )
    place = plain if _ZOO.search(plain) else str(path)  # a zoo file's place in the cache tells, too
    known = own or tuple(classes or ()) or _known_classes(source, place) or None
    expects = source.expects or _zoo_expects(place)
    return replace(source, path=address, classes=known, expects=expects)


def load_checkpoint(
    path: str | os.PathLike[str], *, trust_pickle: bool = False
) -> tuple[SourceWeights, dict[str, Any]]:
    """Reads a checkpoint whole, to go on from it: its weights, and all that lies beside them.

    Read anew, and into memory: what goes on training with these states writes to them.

    Raises:
        WeightFileError: see :func:`load_weights`.
    """
    path = Path(path)
    content = read_file(path, trust_pickle, memory_mapped=False)
    rest = {key: value for key, value in content.items() if key not in _STATE_KEYS}
    return _source(path, content), rest


def local_file(address: str) -> Path:
    """Where the file of an address of :func:`load_weights` lies, once it is fetched.

    Raises:
        WeightFileError: it cannot be fetched, or a folder holds no trained model.
    """
    address = shipped(_HEURISTICS.sub("", address).removeprefix("file://"))
    if os.path.isdir(address):
        found = trained_file(address)
        if found is None:
            raise WeightFileError(
                f"{address}: a folder that holds no trained model. Name a weight file, or the "
                "OUTPUT_DIR of a run that has written a checkpoint."
            )
        return found
    try:
        if address.endswith(".yaml") and not os.path.exists(address):
            from detectron2 import model_zoo  # it builds models, too, and takes a second to import

            address = str(model_zoo.get_checkpoint_url(address))
        if not address.startswith(_REMOTE):
            return Path(PathManager.get_local_path(address))
        from transfer_maskrcnn.surgery.fetch import fetch

        return fetch(address)
    except WeightFileError:  # a ValueError, which has said all
        raise
    except (OSError, RuntimeError, LookupError, ValueError, AssertionError) as error:
        raise WeightFileError(
            f"{address}: cannot be fetched ({error}). Fetch it another way and set MODEL.WEIGHTS "
            "to the local file."
        ) from error


def last_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The checkpoint that a run would be resumed from; None before the first.

    Raises:
        WeightFileError: ``last_checkpoint`` names anything but a file beside it.
    """
    tag = Path(output_dir, "last_checkpoint")
    if not tag.is_file():
        return None
    name = tag.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise WeightFileError(
            f"{tag} names {name!r}; expected the plain name of a checkpoint in that folder, like "
            "model_0000999.pth. Write the name of one there, or start again without --resume."
        )
    return tag.with_name(name)


def trained_file(output_dir: str | os.PathLike[str]) -> Path | None:
    """The last model of a run: the exported one, else its last checkpoint; None before the first.

    With SOLVER.EMA_DECAY the exported one is the average, which a checkpoint's weights are not.

    Raises:
        WeightFileError: see :func:`last_checkpoint`.
    """
    exported, last = Path(output_dir, FINAL_FILE), last_checkpoint(output_dir)
    finished = last is None or last.name == "model_final.pth"
    return exported if finished and exported.is_file() else last


def weights_digest(address: str) -> str:
    """SHA-256 of the file that ``address`` means; "" where it cannot be read."""
    try:
        path = local_file(address)
        return _digest(str(path), _state(path))
    except (OSError, WeightFileError):
        return ""


def _state(path: Path) -> tuple[int, ...]:
    """What changes when the file at ``path`` does; () where there is none."""
    if not path.is_file():
        return ()
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4)  # a source, a run's own file and two more; pickles lie in memory
def _opened(path: str, trust_pickle: bool, state: tuple[int, ...]) -> SourceWeights:
    return _source(Path(path), read_file(Path(path), trust_pickle))


@lru_cache(maxsize=16)
def _digest(path: str, state: tuple[int, ...]) -> str:
    return file_digest(path)


def _source(path: Path, content: Mapping[str, Any]) -> SourceWeights:
    state = next((content[k] for k in _STATE_KEYS if isinstance(content.get(k), Mapping)), content)
    raw = {
        str(name): _tensor(path, str(name), value)
        for name, value in state.items()
        if isinstance(value, (Tensor, np.ndarray))
        and not str(name).endswith("_momentum")  # Caffe2's optimizer
    }
    if not raw:
        keys = ", ".join(sorted(map(str, content))[:8]) or "none"
        raise WeightFileError(
            f"{path}: holds no weights (top-level keys: {keys}). A state dict is looked for at the "
            f"top level and under {', '.join(_STATE_KEYS)}."
        )
    if len(raw) > MOST_TENSORS:
        raise WeightFileError(
            f"{path}: holds {len(raw):,} tensors; a detector has hundreds, and at most "
            f"{MOST_TENSORS:,} are read. Is it a file of weights?"
        )
    try:
        tensors, naming, renamed, needed = translate(raw, author=str(content.get("__author__", "")))
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise WeightFileError(f"{path}: its tensor names make no sense: {error}") from error
    metadata = _metadata(path, content.get(METADATA_KEY))
    expects = {**needed, **(metadata.get("expects") or {})}
    return SourceWeights(
        *(tensors, str(path), _own_classes(metadata), naming, metadata or None, renamed, expects),
    )


# What a checkpoint of this project says of itself: names, numbers, or keys with their values.
_SAID: Mapping[str, tuple[type, ...]] = {
    "thing_classes": (str,),
    UNTRAINED_KEY: (str,),
    "tasks": (int,),
    "config": (),
    "transfer": (),
    "expects": (),
}


def _metadata(path: Path, found: Any) -> Mapping[str, Any]:
    """What a checkpoint says of itself; {} where it says nothing.

    Raises:
        WeightFileError: something of it is of a kind that it never has.
    """
    if found is None:
        return {}
    wrong = "" if isinstance(found, Mapping) else METADATA_KEY
    for key, kinds in _SAID.items() if not wrong else ():
        value = found.get(key)
        fits = (
            isinstance(value, (list, tuple)) and all(type(item) in kinds for item in value)
            if kinds
            else isinstance(value, Mapping)
        )
        wrong = wrong or ("" if value is None or fits else key)
    if wrong:
        raise WeightFileError(
            f"{path}: what it says of itself is damaged ({wrong} is of another kind than this "
            "project writes). Get the file again, or load its tensors and save them alone."
        )
    return dict(found)


def _own_classes(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = metadata.get("thing_classes")
    # random rows: their names say what they are for, not what they know
    random = any(part_of(name) == "predictors" for name in metadata.get(UNTRAINED_KEY) or ())
    return tuple(names) if names and not random else None


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise WeightFileError(f"{path}: {name} is no dense tensor in memory; it cannot move.")
        return value.detach()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "not writable": nobody writes to a source
            return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise WeightFileError(
            f"{path}: {name} is an array of {value.dtype}, not numbers."
        ) from None


def _known_classes(source: SourceWeights, address: str) -> tuple[str, ...] | None:
    """Class names of well-known files: the model zoo's and torchvision's COCO detector."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    score = source.tensors.get("roi_heads.box_predictor.cls_score.bias")
    if source.naming == "torchvision" and score is not None and len(score) == _TORCHVISION_ROWS + 1:
        coco = {c["id"]: str(c["name"]) for c in COCO_CATEGORIES if c["isthing"]}
        return tuple(coco.get(i + 1, "") for i in range(_TORCHVISION_ROWS))
    has_classes = any(part_of(name) == "predictors" for name in source.tensors)
    return zoo_classes(address) if has_classes else None


def zoo_classes(address: str) -> tuple[str, ...] | None:
    """The class names of a model-zoo file, by its address or its place in a cache folder."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.data.datasets.lvis import get_lvis_instances_meta

    found = _ZOO.search(address)
    family = found[1] if found else ""
    if family == "COCO-Keypoints" or (family in _COCO_FAMILIES and "keypoint" in address):
        return ("person",)
    if family in _COCO_FAMILIES:
        return tuple(str(c["name"]) for c in COCO_CATEGORIES if c["isthing"])
    lvis = _LVIS_FAMILIES.get(family)
    return tuple(get_lvis_instances_meta(lvis)["thing_classes"]) if lvis else None


def _zoo_expects(address: str) -> Mapping[str, Any]:
    """Pixels and strides that a file of the model zoo was trained with; {} for other files."""
    backbone, zoo = address.partition("ImageNetPretrained/")[2], _ZOO.search(address)
    if zoo is None:
        return next((v for k, v in _BACKBONES.items() if backbone.startswith(k)), {})
    from detectron2 import model_zoo

    try:
        cfg = model_zoo.get_config(f"{zoo[1]}/{zoo[2]}.yaml")
    except RuntimeError:  # a folder that only looks like the zoo's, or a Python config
        return {}
    return {key: reduce(getattr, key.split("."), cfg) for key in _INPUT_KEYS}
