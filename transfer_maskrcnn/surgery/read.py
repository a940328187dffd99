"""The content of a weight file of any kind. Reading one never runs code from it."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery.safe_pickle import (
    NUMPY_GLOBALS,
    ForbiddenGlobalError,
    safe_load,
    unwrap,
)

#: where our own checkpoints say what they are: a key of a .pth, a metadata key of a .safetensors
METADATA_KEY = "transfer_maskrcnn"

# torch.save before 1.6 begins with this pickled number
_LEGACY_TORCH = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


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
        elif kind == "torch":
            content = _read_torch(path, trust_pickle, memory_mapped)
        else:
            content = _read_pickle(path, trust_pickle)
    except ForbiddenGlobalError as error:
        raise _refusal(path, error) from None
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


def _refusal(path: Path, error: ForbiddenGlobalError) -> WeightFileError:
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


def _read_torch(path: Path, trust_pickle: bool, memory_mapped: bool) -> Any:
    with path.open("rb") as f:
        mmap = memory_mapped and f.read(2) == b"PK"
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
