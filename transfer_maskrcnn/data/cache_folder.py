"""Where parsed datasets are kept from start to start, and that there are not too many of them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SUFFIX = ".records"
_MAX_BYTES = 2_000_000_000
_ABANDONED_SECONDS = 3600  # writing takes seconds, so an older temporary file is a killed writer's


def cache_folder(name: str = "datasets") -> Path | None:
    """The absolute path of a folder, which need not exist; None where there is to be no cache.

    ``name`` below ``$TRANSFER_CACHE``, else ``$XDG_CACHE_HOME/transfer_maskrcnn``, else
    ``~/.cache/transfer_maskrcnn``. An empty ``TRANSFER_CACHE`` switches the cache off.
    """
    own = os.environ.get("TRANSFER_CACHE")
    if own == "":
        return None
    try:
        if own is not None:
            return Path(own).expanduser().absolute() / name
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not shared.is_absolute():  # the XDG standard has it ignored then
            shared = Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return None
    return shared / "transfer_maskrcnn" / name


def mark_used(path: Path) -> None:
    """Make ``path`` the last that :func:`make_room` removes."""
    with suppress(OSError):  # the folder may be read-only
        os.utime(path)


def make_room(folder: Path, suffix: str = SUFFIX, keep: Path | None = None) -> None:
    """Remove the files of ``suffix`` that were not used for longest until the others fit, and what
    killed writers left.

    ``keep`` stays, however large: a file that is about to be used.
    """
    found: list[tuple[float, int, str]] = []
    abandoned = time.time() - _ABANDONED_SECONDS
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process may have removed it
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(suffix):
                    found.append((status.st_mtime, status.st_size, entry.path))
                elif entry.name.endswith(".part") and status.st_mtime < abandoned:
                    os.unlink(entry.path)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= _MAX_BYTES:
            break
        if keep is not None and path == str(keep):
            continue
        with suppress(OSError):
            os.unlink(path)
            total -= size
