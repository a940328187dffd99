"""Unpickling without running code: numpy arrays, numpy numbers and plain containers, nothing else.

A pickle is a program. The ``find_class`` below hands out only the callables of
:data:`SAFE_GLOBALS`, and even numpy's own reconstructors are replaced by small Python ones, because
a crafted state for ``numpy.dtype.__setstate__`` can corrupt memory.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np

_DTYPE_CODE = re.compile(r"[<>|=]?(?:b1|\?|[iu][1248]|f[248]|c(?:8|16))")


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle asks for a callable that plain data does not need. ``name`` is that callable."""

    def __init__(self, name: str):
        super().__init__(f"forbidden global {name}")
        self.name = name


class _Dtype:
    """Stands in for ``numpy.dtype`` while unpickling; numbers only, no objects, no structures."""

    def __init__(self, code: str = "", align: Any = False, copy: Any = False):
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r} of a numpy dtype")
        self.order = order

    def resolve(self) -> np.dtype[Any]:
        """Returns the real dtype. Raises UnpicklingError for anything but numbers and booleans."""
        if not isinstance(self.code, str) or not _DTYPE_CODE.fullmatch(self.code):
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


def _as_array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
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


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> _Array:
    array = _Array()
    array.value = _as_array(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> int | float | bool | complex:
    return _as_array(raw, dtype, (), "C").item()


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""  # how the oldest protocols write it


_NUMPY_CORE: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
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
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

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


def unwrap(value: Any) -> Any:
    """Returns ``value`` with the stand-ins for numpy arrays inside plain containers resolved."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {k: unwrap(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(v) for v in value)
    return value
