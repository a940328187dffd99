"""Weight files of every kind -> :class:`SourceWeights`. Reading one never runs code from it."""

import contextlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery.parts import part_of
from transfer_maskrcnn.surgery.safe_pickle import (
    NUMPY_GLOBALS,
    ForbiddenGlobalError,
    safe_load,
    unwrap,
)
from transfer_maskrcnn.surgery.translate import translate

#: where our own checkpoints say what they are: a key of a .pth, a metadata key of a .safetensors
METADATA_KEY = "transfer_maskrcnn"
#: in that metadata: names of tensors that were initialised and never trained
UNTRAINED_KEY = "untrained"

# torch.save before 1.6 begins with this pickled number
_LEGACY_TORCH = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_STATE_KEYS = ("model", "model_state", "state_dict", "model_state_dict", "blobs")


@dataclass(frozen=True)
class SourceWeights:
    """What a weight file holds, under detectron2's names.

    Attributes:
        tensors: name -> tensor. A name is a full detectron2 name or the end of one
            (``res2.0.conv1.weight``). Memory-mapped where the file allows it; never write to them.
        path: where it came from, for messages.
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


def load_source_weights(
    path: str | Path, *, classes: Sequence[str] | None = None, trust_pickle: bool = False
) -> SourceWeights:
    """Reads a local ``.pkl``, ``.pth`` or ``.safetensors`` file; the content decides, not the name.

    Args:
        path: a local file.
        classes: its class names, for a file that does not carry them.
        trust_pickle: unpickle whatever the file says. This runs code from it.

    Raises:
        WeightFileError: the file is missing, damaged, no weight file, asks to run code, or carries
            other class names than ``classes``.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        if kind == "safetensors":
            content = _read_safetensors(path)
        elif kind == "torch":
            content = _read_torch(path, trust_pickle)
        else:
            content = _read_pickle(path, trust_pickle)
    except (ForbiddenGlobalError, WeightFileError) as error:
        raise _refusal(path, error) from None
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise WeightFileError(
            f"{path}: the file is truncated or damaged ({type(error).__name__}: "
            f"{_first_line(error)}). Get it again and compare its size and checksum."
        ) from error
    return _source(path, content, classes)


def _kind(path: Path) -> str:
    """The container format, from the first bytes. Raises WeightFileError with a sentence a case."""
    if not path.is_file():
        seen = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        raise WeightFileError(
            f"{path}: no such weight file{seen}. Check MODEL.WEIGHTS, or the path you gave."
        )
    with path.open("rb") as f:
        head = f.read(1024)
    if not head:
        raise WeightFileError(f"{path}: the file is empty (0 bytes). Get it again.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightFileError(
            f"{path}: a git-lfs pointer, not the weights themselves. Run `git lfs pull` in the "
            "repository that it came from."
        )
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|!--|html|head|\?xml)", head, re.IGNORECASE):
        raise WeightFileError(
            f"{path}: a web page (html), not weights: the download got an error or a login page. "
            "Open the address in a browser and get the file itself."
        )
    if head.startswith(b"PK\x03\x04") or _LEGACY_TORCH in head[:16]:
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return "pickle"
    raise WeightFileError(
        f"{path}: neither a .pkl, a .pth nor a .safetensors file (it begins with {head[:8]!r}). "
        "It may be damaged; get it again."
    )


def _refusal(path: Path, error: Exception) -> WeightFileError:
    if not isinstance(error, ForbiddenGlobalError):
        return WeightFileError(f"{path}: {error}")
    return WeightFileError(
        f"{path}: loading it would run code: it asks for {error.name}, and weights need numbers "
        "and plain containers only. If you made this file yourself, or trust whoever did with "
        "your account, set MODEL.TRANSFER.TRUST_PICKLE True; better, save it as .safetensors."
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    text = text.partition("WeightsUnpickler error: ")[2] or text  # not torch's advice to trust it
    return (text.splitlines() or ["no details"])[0][:200]


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as f:
        metadata = (f.metadata() or {}).get(METADATA_KEY)
        model = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    return (
        {"model": model}
        if metadata is None
        else {"model": model, METADATA_KEY: json.loads(metadata)}
    )


def _read_pickle(path: Path, trust_pickle: bool) -> Any:
    with path.open("rb") as f:
        return pickle.load(f, encoding="latin1") if trust_pickle else safe_load(f)


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    with path.open("rb") as f:
        mmap = f.read(2) == b"PK"
    if trust_pickle:
        return torch.load(str(path), map_location="cpu", weights_only=False, mmap=mmap)
    try:
        with _numpy_numbers_admitted():
            return unwrap(torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap))
    except pickle.UnpicklingError as error:
        found = re.search(r"nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", str(error))
        if found:
            raise ForbiddenGlobalError(found[1]) from None
        raise


@contextlib.contextmanager
def _numpy_numbers_admitted() -> Iterator[None]:
    """Training checkpoints hold numpy scalars (losses, best metrics); before 2.6 torch refuses."""
    if tuple(int(x) for x in torch.__version__.split(".")[:2]) < (2, 6):
        yield
        return
    with torch.serialization.safe_globals(NUMPY_GLOBALS):  # type: ignore[arg-type]
        yield


def _source(path: Path, content: Any, classes: Sequence[str] | None) -> SourceWeights:
    if not isinstance(content, Mapping):
        raise WeightFileError(
            f"{path}: holds a {type(content).__name__}, not a dict of weights. Save "
            "model.state_dict(), not the model."
        )
    state = next((content[k] for k in _STATE_KEYS if isinstance(content.get(k), Mapping)), content)
    raw = {
        str(k): _tensor(path, str(k), v)
        for k, v in state.items()
        if isinstance(v, (Tensor, np.ndarray))
    }
    raw = {k: v for k, v in raw.items() if not k.endswith("_momentum")}  # Caffe2's optimizer
    if not raw:
        keys = ", ".join(sorted(map(str, content))[:8]) or "none"
        raise WeightFileError(
            f"{path}: holds no weights (top-level keys: {keys}). A state dict is looked for at the "
            f"top level and under {', '.join(_STATE_KEYS)}."
        )
    try:
        names = translate(raw, author=str(content.get("__author__", "")))
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise WeightFileError(f"{path}: its tensor names make no sense: {error}") from error
    metadata = content.get(METADATA_KEY)
    metadata = metadata if isinstance(metadata, Mapping) else None
    expects = {**names.expects, **_plain_mapping(metadata, "expects")}
    found = _classes(path, metadata, classes)
    return SourceWeights(
        names.tensors, str(path), found, names.naming, metadata, names.renamed, expects
    )


def _plain_mapping(metadata: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    value = (metadata or {}).get(key)
    return value if isinstance(value, Mapping) else {}


def _classes(
    path: Path, metadata: Mapping[str, Any] | None, given: Sequence[str] | None
) -> tuple[str, ...] | None:
    own = (metadata or {}).get("thing_classes")
    if any(
        part_of(str(name)) == "predictors" for name in (metadata or {}).get(UNTRAINED_KEY) or ()
    ):
        own = None  # its rows are random: the names say what they are for, not what they know
    if not isinstance(own, (list, tuple)) or not all(isinstance(name, str) for name in own):
        return tuple(given) if given else None
    if given and tuple(given) != tuple(own):
        raise WeightFileError(
            f"{path}: carries the class names {list(own)}, but SOURCE_CLASSES says {list(given)}. "
            "Remove SOURCE_CLASSES, the file knows."
        )
    return tuple(own)


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise WeightFileError(f"{path}: {name} is no dense tensor in memory; it cannot move.")
        return value.detach()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "not writable": nobody writes to a source
            native = value.astype(value.dtype.newbyteorder("="), copy=False)
            return torch.from_numpy(native)
    except TypeError:
        raise WeightFileError(
            f"{path}: {name} is an array of {value.dtype}, not numbers."
        ) from None
