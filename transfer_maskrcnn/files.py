"""Writing files so that a kill at any moment leaves the last good state."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from transfer_maskrcnn.errors import TransferError

T = TypeVar("T")


_HOST = re.sub(r"[^\w-]", "-", platform.node())[:32] or "host"
# What safetensors and torch say of a disk that takes no more; neither raises an OSError.
_DISK_FULL = re.compile(
    r"No space left|File too large|os error (27|28|122)|PytorchStreamWriter|file write failed"
)
_swept: set[Path] = set()  # folders that this process has looked through


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; it takes that name when the block ends well.

    Raises:
        OSError: it cannot be written, in the words of the system, with ``path``.
    """
    final = Path(path)
    with _unfinished(final, is_folder=False) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # until then, it is its owner's alone
        os.replace(temporary, final)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, which has that name when the block ends well.

    Raises:
        OSError: it cannot be written, or there is anything at ``path`` but an empty folder.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(final, is_folder=True) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.rename(temporary, final)


@contextmanager
def _unfinished(final: Path, is_folder: bool) -> Iterator[Path]:
    """A new file or folder beside ``final``, under a name that nobody can guess.

    It is locked, so that :func:`_sweep` can tell it from what a killed process left.
    """
    temporary = final
    try:
        _sweep(final.parent)
        handle, temporary = _locked(final, is_folder)
        try:
            yield temporary
        finally:
            _remove(temporary)
            os.close(handle)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(final)
        elif isinstance(error.filename, (str, os.PathLike)):
            error.filename = os.fspath(error.filename).replace(str(temporary), str(final))
        raise
    except Exception as error:
        if not _DISK_FULL.search(str(error)):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(final)) from None


def _locked(final: Path, is_folder: bool) -> tuple[int, Path]:
    while True:
        ends = ".part", f".{final.name[:20]}.{_HOST}.{os.getpid()}."
        try:
            if is_folder:
                name = tempfile.mkdtemp(*ends, final.parent)
                handle = os.open(name, os.O_RDONLY)
            else:
                handle, name = tempfile.mkstemp(*ends, final.parent)
        except OSError as error:
            error.filename = os.fspath(final)
            raise
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(name):  # else another process swept it away before it was locked
            return handle, Path(name)
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder; once a process."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(f".*.{_HOST}.*.part"):
        with suppress(OSError):  # its writer is alive, or another process was faster
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
