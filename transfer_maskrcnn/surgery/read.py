"""The content of a weight file of any kind: read, and written. Reading never runs code from it.

A pickle is a program. The ``find_class`` below hands out only the callables of
:data:`SAFE_GLOBALS`: numpy arrays, numpy numbers and plain containers. Even numpy's own
reconstructors are replaced by small Python ones, because a crafted state for
``numpy.dtype.__setstate__`` can corrupt memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from transfer_maskrcnn.errors import WeightFileError, refuse
from transfer_maskrcnn.files import atomic_path

#: where our own checkpoints say what they are: a key of a .pth, a metadata key of a .safetensors
METADATA_KEY = "transfer_maskrcnn"

# Far beyond any weight file, and read in about two seconds: a small file may ask for more.
MOST_TENSORS = 10_000
_MOST_STEPS = 1_000_000  # of a pickle
_MOST_NESTED = 500
_MOST_HEADER, _MOST_STATES = 4_000_000, 2_000_000  # bytes: of a .safetensors, of a .pth's pickle
_MOST_GROWTH = 500_000_000  # bytes that a compressed .pth may take beyond its own size

_DTYPE_CODE = re.compile(r"[<>|=]?(?:b1|\?|[iu][1248]|f[248]|c(?:8|16))")
# torch.save before 1.6 begins with this pickled number
_LEGACY_TORCH = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# what is no weight file, by its first bytes
_STRANGERS = (
    (rb"\Z", "the file is empty (0 bytes). Get it again."),
    (
        rb"version https://git-lfs",
        "a git-lfs pointer, not the weights themselves. Run `git lfs pull` in the repository that "
        "it came from.",
    ),
    (
        rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype|!--|html|head|\?xml)",
        "a web page (html), not weights: the download got an error or a login page. Open the "
        "address in a browser and get the file itself.",
    ),
)


def read_file(
    path: Path, trust_pickle: bool = False, memory_mapped: bool = True
) -> Mapping[str, Any]:
    """Reads a local ``.pkl``, ``.pth`` or ``.safetensors`` file; the content decides, not the name.

    Args:
        path: a local file.
        trust_pickle: unpickle whatever the file says. This runs code from it.
        memory_mapped: leave tensors on the disk until somebody looks, where the format allows it.

    Returns:
        its top-level dict; a .safetensors has its tensors under ``model``, as a checkpoint has.

    Raises:
        WeightFileError: the file is missing, damaged, no weight file, or asks to run code.
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            content = _read_safetensors(path)
        elif kind == "pickle":
            with path.open("rb") as f:
                content = pickle.load(f, encoding="latin1") if trust_pickle else safe_load(f)
        else:
            is_plain = kind == "zip" and _check_zip(path)
            content = _read_torch(path, trust_pickle, memory_mapped and is_plain)
    except ForbiddenGlobalError as error:
        raise WeightFileError(
            f"{path}: loading it would run code: it asks for {error}, and weights need numbers and "
            "plain containers only. If you made this file yourself, or trust whoever did with your "
            "account, set MODEL.TRANSFER.TRUST_PICKLE True (in Python trust_pickle=True); better, "
            "save it as .safetensors."
        ) from None
    except TooMuchError as error:
        raise WeightFileError(
            f"{path}: {error}; no weight file of a detector is like that, and reading it could "
            "take all memory. Get it from where it was published."
        ) from None
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise WeightFileError(
            f"{path}: the file is truncated or damaged ({type(error).__name__}: "
            f"{_first_line(error)}). Get it again and compare its size and checksum."
        ) from error
    if not isinstance(content, Mapping):
        raise WeightFileError(
            f"{path}: holds a {type(content).__name__}, not a dict of weights. Save "
            "model.state_dict(), not the model."
        )
    return content


def _kind(path: Path) -> str:
    """The container format, from the first bytes. Raises WeightFileError with a sentence a case."""
    if not path.is_file():
        seen = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        raise WeightFileError(
            f"{path}: no such weight file{seen}. Check MODEL.WEIGHTS, or the path you gave."
        )
    with path.open("rb") as f:
        head = f.read(1024)
    strangers = ((re.match(pattern, head), f"{path}: {what}") for pattern, what in _STRANGERS)
    refuse(*strangers, error=WeightFileError)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if _LEGACY_TORCH in head[:16]:
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        if int.from_bytes(head[:8], "little") > _MOST_HEADER:
            raise WeightFileError(
                f"{path}: its header has over {_MOST_HEADER:,} bytes, which no detector's has. "
                "Is it a file of weights?"
            )
        return "safetensors"
    if head.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return "pickle"
    raise WeightFileError(
        f"{path}: neither a .pkl, a .pth nor a .safetensors file (it begins with {head[:8]!r}). "
        "It may be damaged; get it again."
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    text = text.partition("WeightsUnpickler error: ")[2] or text  # not torch's advice to trust it
    return (text.splitlines() or ["no details"])[0][:200]


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as f:
        metadata = (f.metadata() or {}).get(METADATA_KEY)
        model = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    return {"model": model, METADATA_KEY: None if metadata is None else json.loads(metadata)}


def _check_zip(path: Path) -> bool:
    """Whether everything in a .pth lies there as it is, so that it can be mapped into memory.

    Raises TooMuchError where it would become far larger than the file, or says too much.
    """
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > path.stat().st_size + _MOST_GROWTH:
        raise TooMuchError(f"it unpacks to {size:,} bytes")
    states = max((e.file_size for e in entries if e.filename.endswith("data.pkl")), default=0)
    if states > _MOST_STATES or len(entries) > MOST_TENSORS * 4:
        raise TooMuchError(f"{len(entries):,} entries, and {states:,} bytes that describe them")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _read_torch(path: Path, trust_pickle: bool, mmap: bool) -> Any:
    if trust_pickle:
        return torch.load(str(path), map_location="cpu", weights_only=False, mmap=mmap)
    # Training checkpoints hold numpy scalars (losses, best metrics); before 2.6 torch refuses.
    named = tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 6)
    serialization: Any = torch.serialization
    admitted = serialization.safe_globals(NUMPY_GLOBALS) if named else contextlib.nullcontext()
    try:
        with admitted:
            return unwrap(torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap))
    except pickle.UnpicklingError as error:
        found = re.search(r"nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", str(error))
        if found:
            raise ForbiddenGlobalError(found[1]) from None
        raise


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle asks for a callable that plain data does not need, of this name."""


class TooMuchError(pickle.UnpicklingError):
    """What a file asks for is out of all proportion to its size."""


class _Counted(dict[int, Callable[[Any], None]]):
    """The steps that a pickle may take, of which it may not take endlessly many."""

    taken = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.taken += 1
        if self.taken > _MOST_STEPS:
            raise TooMuchError(f"it is a pickle of over {_MOST_STEPS:,} steps")
        return super().__getitem__(code)


class _Dtype:
    """Stands in for ``numpy.dtype`` while unpickling; numbers only, no objects, no structures."""

    def __init__(self, code: str = "", align: Any = False, copy: Any = False):
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        """Returns the real dtype. Raises UnpicklingError for anything but numbers and booleans."""
        known = isinstance(self.code, str) and _DTYPE_CODE.fullmatch(self.code)
        if not known or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"numpy dtype {self.code!r} holds no plain numbers")
        dtype = np.dtype(self.code)
        return dtype if self.order in "|=" else dtype.newbyteorder(self.order)


class _Array:
    """Stands in for ``numpy.ndarray``; a view of the pickle's own bytes, so it copies nothing."""

    def __init__(self, *_: Any):
        self.value: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _as_array(raw, dtype, shape, "F" if fortran else "C")


def _as_array(raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray[Any, Any]:
    if isinstance(raw, str):  # a Python 2 pickle, read as latin-1
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray, pickle.PickleBuffer)):
        raise pickle.UnpicklingError(f"a numpy array made of {type(raw).__name__}")
    kind = dtype.resolve()
    shape = tuple(int(size) for size in shape)
    size = memoryview(raw).nbytes
    if math.prod(shape) * kind.itemsize != size or min(shape, default=0) < 0:
        raise pickle.UnpicklingError(f"{size} bytes for {kind} of shape {shape}")
    flat = np.frombuffer(memoryview(raw), dtype=kind) if size else np.empty(0, dtype=kind)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, raw: Any = b"") -> int | float | bool | complex:
    return _as_array(raw, dtype, ()).item()


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""  # how the oldest protocols write it


_NUMPY_CORE: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _as_array,
}

#: every global a weight file may name, and what it gets for it
SAFE_GLOBALS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _latin1,
    "__builtin__.bytes": _empty_bytes,
    "builtins.bytes": _empty_bytes,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{f"numpy.{core}.{k}": v for core in ("core", "_core") for k, v in _NUMPY_CORE.items()},
}

#: the part of it that ``torch.load(weights_only=True)`` does not already admit by itself
NUMPY_GLOBALS = [(v, k) for k, v in SAFE_GLOBALS.items() if not k.startswith("collections")]


class _Unpickler(pickle._Unpickler):
    """The one written in Python: the one in C lets four bytes of a file claim gigabytes (a memo
    index), and a damaged or hostile file must cost an error message and no more."""

    stack: list[Any]
    metastack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def load(self) -> Any:
        vars(self)["dispatch"] = _Counted(type(self).dispatch)
        return super().load()

    def load_mark(self) -> None:
        if len(self.metastack) >= _MOST_NESTED:
            raise TooMuchError(f"it is nested over {_MOST_NESTED} times")
        super().load_mark()  # type: ignore[misc]

    dispatch[pickle.MARK[0]] = load_mark

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in SAFE_GLOBALS:
            raise ForbiddenGlobalError(full)
        return SAFE_GLOBALS[full]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to data outside the file")

    def load_build(self) -> None:
        """Sets the state of arrays and dtypes; a pickle may not set attributes of anything else."""
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, (_Array, _Dtype)):
            built.__setstate__(state)
        elif not isinstance(built, OrderedDict):  # whose extra attributes weights do not need
            raise pickle.UnpicklingError(f"attributes for a {type(built).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def safe_load(file: io.BufferedIOBase) -> Any:
    """Reads one pickle of plain data, as ``pickle.load(file, encoding="latin1")`` would.

    Returns:
        the object; numpy arrays are read-only views of the bytes that were read.

    Raises:
        ForbiddenGlobalError: the file names a callable outside :data:`SAFE_GLOBALS`.
        Exception: whatever a damaged pickle makes Python raise; callers translate it.
    """
    return unwrap(_Unpickler(file, encoding="latin1").load())


def unwrap(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Returns ``value`` with the stand-ins for numpy arrays inside plain containers resolved.

    What is there twice is resolved once: lists of the same lists would fill any memory.
    """
    known = {} if known is None else known  # by id; ``value`` keeps all of them alive
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {k: unwrap(v, known) for k, v in value.items()}
        else:
            known[id(value)] = type(value)(unwrap(v, known) for v in value)
    return known[id(value)]


def write_weights(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Writes weights and what they are, as .pth or .safetensors by the name's end.

    The file is complete or absent, never half written. The .pth is a dict with ``model``, which a
    stock ``DetectionCheckpointer`` loads by exact names.

    Args:
        path: where to; replaced in one step.
        tensors: name -> tensor, for example ``model.state_dict()``.
        metadata: plain values, with the class names in order under ``thing_classes``.

    Raises:
        WeightFileError: another ending.
        TypeError: the metadata are not plain.
    """
    path, text = Path(path), json.dumps(dict(metadata))
    if path.suffix not in (".pth", ".safetensors"):
        raise WeightFileError(f"{path}: weights are written as .pth or .safetensors.")
    plain = {name: tensor.detach() for name, tensor in tensors.items()}
    with atomic_path(path) as unfinished:
        if path.suffix == ".pth":
            torch.save({"model": plain, METADATA_KEY: json.loads(text)}, unfinished)
        else:
            # a name each, not shared memory, is what the format stores
            own = {name: tensor.cpu().clone().contiguous() for name, tensor in plain.items()}
            # one key: of several, safetensors writes equal ones in any order
            save_file(own, unfinished, metadata={METADATA_KEY: text})
