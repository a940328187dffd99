"""Weights from an address into the cache that detectron2 reads: gone on with, and checked."""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from detectron2.utils.file_io import Detectron2Handler
from iopath.common.file_io import get_cache_dir

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.files import file_digest, lock
from transfer_maskrcnn.text import wrapped

# "any model on this page contains its md5 prefix in its file name", says the model zoo's page
_ZOO_FILE = re.compile(r"model_final_([0-9a-f]{6})\.pkl$")
_BLOCK, _TIMEOUT = 1 << 20, 60  # bytes, seconds


def url_of(address: str) -> str:
    """The https:// address of a detectron2:// one; any other as it is."""
    return re.sub(f"^{Detectron2Handler.PREFIX}", Detectron2Handler.S3_DETECTRON2_PREFIX, address)


def cached_file(address: str) -> Path:
    """Where the file of an address lies, here and for detectron2, once it is fetched."""
    url = url_of(address)
    folder = Path(get_cache_dir(), urlsplit(url).path.lstrip("/")).parent
    return folder / url.rpartition("/")[2]


def fetch(address: str) -> Path:
    """The file of an address, from the cache, or fetched into it; what was cut off goes on.

    Raises:
        WeightFileError: it cannot be fetched, or is not what its name says.
    """
    file, url = cached_file(address), url_of(address)
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    try:
        with open(part, "ab") as out:
            if not lock(out):
                raise WeightFileError(f"another process is fetching {url}; wait until it has ended")
            _download(url, out)
    except (OSError, HTTPException) as error:
        why = " ".join(str(getattr(error, "reason", error) or error).split())
        raise WeightFileError(
            f"{address}: cannot be fetched ({why}); the same command goes on with it.\n"
            f"Without a connection, fetch it elsewhere:\n  {url}\nand put it there, where it will "
            f"be found:\n  {file}\n"
            + wrapped("or say where it is: --weights FILE, or MODEL.WEIGHTS FILE.", "")
        ) from None
    _check(part, file.name, url)
    part.replace(file)
    return file


def _download(url: str, out: IO[bytes]) -> None:
    """Write what is missing of ``url`` behind what is there.

    Raises:
        OSError, HTTPException: it ends before its end, or does not begin.
    """
    done = out.tell()
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and error.headers["Content-Range"] == f"bytes */{done}":
            return  # nothing is missing
        if error.code == 416:
            out.truncate(0)
        raise
    with response:
        if done and response.status != 206:
            done = out.truncate(0)
        length = response.headers["Content-Length"]
        total = done + int(length) if length else None
        blocks = None if total is None else -(-(total - done) // _BLOCK)
        name = f"{url.rpartition('/')[2]}, MB"
        for block in progress(iter(lambda: response.read(_BLOCK), b""), name, blocks):
            out.write(block)
            done += len(block)
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done / 1e6:.0f} of {total / 1e6:.0f} MB")


def _check(path: Path, name: str, url: str) -> None:
    stated = _ZOO_FILE.search(name)
    found = file_digest(path, "md5")[:6] if stated else ""
    if stated and stated[1] != found:
        path.unlink()
        raise WeightFileError(
            f"{url}: damaged on its way: its MD5 begins with {found}, and the model zoo's name "
            f"says {stated[1]}. Nothing was kept; fetch it again"
        )
