"""Files written so that a kill at any moment leaves the last good state; YAML read as plain values.

PyYAML's safe loader makes no Python objects, but takes the last of repeated keys without a word,
and lets aliases of aliases unfold to more than any memory holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml

from transfer_maskrcnn.errors import DatasetError, TransferError

try:
    import fcntl

    _LOCKS = True
except ImportError:  # Windows
    _LOCKS = False

T = TypeVar("T")
_DEPTH = 50  # no file that is written by hand comes near
_UNFOLDED = 100_000  # values that aliases may stand for, all together
_BITS, _DIGITS = 64, 100  # of a whole number, sign included; binary ones have underscores

_HOST = re.sub(r"[^\w-]", "-", platform.node())[:32] or "host"
# What safetensors and torch say of a disk that takes no more; neither raises an OSError.
_DISK_FULL = re.compile(
    r"No space left|File too large|os error (27|28|122)|PytorchStreamWriter|file write failed"
)
_swept: set[Path] = set()  # folders that this process has looked through

_HERE = Path(__file__).resolve().parent
# In a wheel they are inside the package; a checkout has them at its top.
CONFIGS = next(filter(Path.is_dir, (_HERE / "configs", _HERE.parent / "configs")), _HERE)


def shipped(name: str) -> str:
    """``name``; where there is no such file, that of ``configs/`` which comes with the package.

    ``balloon/mask_rcnn_R_50_FPN.yaml``, also with ``configs/`` in front.
    """
    path = os.path.expanduser(name)
    own = CONFIGS / path.removeprefix("configs/")
    return str(own) if own.is_file() and not os.path.exists(path) else path


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
        lock(handle)
        if os.path.exists(name):  # else another process swept it away before it was locked
            return handle, Path(name)
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder; once a process."""
    folder = folder.absolute()
    if folder in _swept or not _LOCKS:
        return
    _swept.add(folder)
    for path in folder.glob(f".*.{_HOST}.*.part"):
        with suppress(OSError):  # its writer is alive, or another process was faster
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
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


def lock(file: IO[Any] | int) -> bool:
    """Hold an open file or folder for this process; False where another one holds it.

    The system lets go of it when the file is closed, whatever ends the process. Where Python has
    no such locks (Windows), nobody is kept out.
    """
    if not _LOCKS:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def unlock(file: IO[Any] | int) -> None:
    """Let go of what :func:`lock` holds, also for processes that inherited it."""
    if _LOCKS:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def file_digest(path: str | os.PathLike[str], kind: str = "sha256") -> str:
    """Of a file's content, in hexadecimal: a copy, or another name, has the same."""
    digest = hashlib.new(kind, usedforsecurity=False)
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


def read_json(
    path: str | os.PathLike[str],
    kind: type[T],
    missing: T | None = None,
    fix: str = "repeat the run that wrote it",
) -> T:
    """The content of a JSON file that this package wrote, which is a ``kind`` (dict or list).

    Args:
        missing: what an absent file stands for; None: it must be there.
        fix: what to do about any other.

    Raises:
        TransferError: it is absent, cannot be read, is no JSON, or holds something else.
    """
    path = Path(path)
    if missing is not None and not path.is_file():
        return missing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise TransferError(f"{path} cannot be read as JSON ({error}); {fix}") from error
    if not isinstance(content, kind):
        raise TransferError(
            f"{path} holds a JSON {type(content).__name__}, expected a {kind.__name__}; {fix}"
        )
    return content


def parse_yaml(text: str, source: str, error: type[TransferError] = DatasetError) -> Any:
    """The content of a YAML text.

    Args:
        source: what the text is, for errors: a file's path.
        error: what is raised.

    Raises:
        error: with line and column, where it is no YAML, a tag asks for a Python object, a key is
            there twice, a whole number has more than 64 bits, values are nested deeper than 50, or
            aliases unfold to more than 100,000.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except Exception as problem:  # PyYAML raises nearly every type of it: `!!bool x`, `!!int ""`
        at = " ".join(str(problem).replace(' in "<unicode string>",', " at").split())
        raise error(f"{source} is not valid YAML, or not plain values: {at}") from None


class _PlainLoader(yaml.SafeLoader):
    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._composed = self._unfolded = 0
        self._sizes: dict[Any, int] = {}  # of whole nodes, aliases unfolded

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, before = self.peek_event(), self._composed
        self._depth += 1
        _refuse(self._depth > _DEPTH, f"nested deeper than {_DEPTH}", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._composed += 1
            self._sizes[node] = self._composed - before
            return node
        _refuse(node not in self._sizes, "an alias that contains itself", event)
        self._composed += self._sizes[node]
        self._unfolded += self._sizes[node]
        _refuse(self._unfolded > _UNFOLDED, "aliases that unfold to too many values", event)
        return node

    def construct_yaml_int(self, node: Any) -> Any:
        value = super().construct_yaml_int(node) if len(node.value) <= _DIGITS else None
        _refuse(value is None or value.bit_length() >= _BITS, "a number of over 64 bits", node)
        return value

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
            _refuse(name in seen, f"the key {key.value!r} is there twice", key)
            seen.add(name)
        return node


# The constructors of the base class are its own functions, by tag.
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _refuse(wrong: bool, problem: str, at: Any) -> None:
    if wrong:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def common_folder(files: Sequence[str]) -> str:
    """The folder, or the one file, that all absolute paths are in; "" where they share none."""
    if not files or not all(os.path.isabs(file) for file in files):
        return ""
    common = os.path.commonpath(files) if len(files) > 1 else os.path.dirname(files[0])
    return common if common != os.path.dirname(common) else ""
