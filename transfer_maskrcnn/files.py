"""Writing files so that a kill at any moment leaves the last good state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from transfer_maskrcnn.errors import TransferError

T = TypeVar("T")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes that name when the block ends well."""
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # safetensors, for one, makes files for their owner only
        os.replace(temporary, final)
    except OSError as error:
        show_as(error, temporary, final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def show_as(error: OSError, temporary: Path, final: Path) -> None:
    """Make an error speak of the file that the user knows, and not of the hidden one."""
    if isinstance(error.filename, (str, os.PathLike)):
        error.filename = os.fspath(error.filename).replace(str(temporary), str(final))


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal: a copy, or another name, has the same."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all; NaN and infinity, which JSON lacks, as null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    write_text(path, json.dumps(finite, indent=1) + "\n")


def read_json(path: str | os.PathLike[str], kind: type[T], missing: T | None = None) -> T:
    """The content of a JSON file that this package wrote, which is a ``kind`` (dict or list).

    Args:
        missing: what an absent file stands for; None: it must be there.

    Raises:
        TransferError: it is absent, cannot be read, is no JSON, or holds something else.
    """
    path = Path(path)
    if missing is not None and not path.is_file():
        return missing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise TransferError(
            f"{path} cannot be read as JSON ({error}); repeat the run that wrote it"
        ) from error
    if not isinstance(content, kind):
        raise TransferError(
            f"{path} holds a JSON {type(content).__name__}, expected a {kind.__name__}; repeat the "
            "run that wrote it"
        )
    return content
