#!/usr/bin/env python3
"""Download, verify and unpack Matterport's balloon dataset (39 MB).

Examples:
    .venv/bin/python datasets/prepare_balloon.py
    .venv/bin/python datasets/prepare_balloon.py --archive balloon_dataset.zip

Run again, it goes on with a download that broke off; where the dataset is
complete it does nothing.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import stat
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"
# As pinned by a public project that uses this archive; the release itself states none.
SHA256 = "053797b8a0f3c210b80d1494af99e2e65c7830c5dccca581285e61048cb0bf1c"
COUNTS = {"train": (61, 255), "val": (13, 50)}  # split -> images, polygons
ANNOTATIONS = "via_region_data.json"
MAX_UNPACKED_BYTES = 200_000_000
ATTEMPTS = 3
BLOCK = 1 << 16


class PrepareError(Exception):
    """Something the user can mend; the message says how."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        prepare(Path(args.root), args.archive, args.url, args.sha256)
    except (PrepareError, OSError) as error:
        print(f"prepare_balloon: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprepare_balloon: stopped; run it again to go on from there", file=sys.stderr)
        return 130
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        default=os.environ.get("DETECTRON2_DATASETS", "datasets"),
        help="folder that gets balloon/ (default: $DETECTRON2_DATASETS, else datasets)",
    )
    parser.add_argument("--archive", type=Path, help="a local copy of balloon_dataset.zip")
    parser.add_argument("--url", default=URL, help="where to download from (default: %(default)s)")
    parser.add_argument(
        "--sha256",
        default=SHA256,
        help="checksum the archive must have; 'none' checks the content alone, for an archive that "
        "was packed again (default: that of the release)",
    )
    return parser.parse_args(argv)


def prepare(root: Path, archive: Path | None, url: str, sha256: str) -> None:
    """Bring ``root/balloon`` into being, whole or not at all."""
    target = root / "balloon"
    if target.exists():
        problem = content_problem(target)
        if problem:
            raise PrepareError(f"{target} is incomplete: {problem}. Move it away and run again.")
        print(f"{target} is there and complete; nothing to do")
        return
    root.mkdir(parents=True, exist_ok=True)
    if archive is not None:
        if not archive.is_file():
            raise PrepareError(f"no archive {archive}")
        check_sha256(archive, sha256)
        unpack(archive, target)
    else:
        downloaded = root / "balloon_dataset.zip"
        if not downloaded.exists():
            download(url, downloaded, sha256)
        check_sha256(downloaded, sha256)
        unpack(downloaded, target)
        downloaded.unlink()
    images, polygons = (sum(n) for n in zip(*COUNTS.values(), strict=True))
    print(f"{target}: {images} images with {polygons} balloons, complete")


# ---------------------------------------------------------------------------- download


def download(url: str, path: Path, sha256: str) -> None:
    """Download to ``path``, by way of ``path.part``, which a later run continues."""
    part = path.with_name(path.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch_rest(url, part)
            break
        except urllib.error.HTTPError as error:
            raise PrepareError(f"{url} answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                have = part.stat().st_size if part.exists() else 0
                raise PrepareError(
                    f"cannot download {url}: {error}. {have:,} bytes are kept; run again to go "
                    "on, or fetch the file by other means and name it with --archive."
                ) from None
    try:
        check_sha256(part, sha256)
    except PrepareError:
        part.unlink()  # else every later run would meet the same bytes
        raise
    part.replace(path)


def fetch_rest(url: str, part: Path) -> None:
    """Append to ``part`` what it still lacks; start over where the server cannot continue."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after what is there: complete, or another file
            raise
        if error.headers.get("Content-Range") != f"bytes */{have}":
            part.unlink()
            fetch_rest(url, part)
        return
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if resumed else "wb") as file, bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")


def check_sha256(path: Path, expected: str) -> None:
    if expected.lower() == "none":
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        raise PrepareError(
            f"{path} has the SHA-256 {digest.hexdigest()}, expected {expected}: it is damaged or "
            "another file. Remove it and fetch it again; --sha256 none checks the content alone."
        )


# ---------------------------------------------------------------------------- unpack, verify


def unpack(archive: Path, target: Path) -> None:
    """Unpack beside ``target``, verify, and rename: ``target`` is never there half."""
    unpacking = target.with_name(".balloon.unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)
    unpacking.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            for member, relative in wanted_members(file):
                out = unpacking / relative
                out.parent.mkdir(exist_ok=True)
                with file.open(member) as source, out.open("wb") as sink:  # checks the CRC
                    shutil.copyfileobj(source, sink)
        problem = content_problem(unpacking)
        if problem:
            raise PrepareError(f"{archive} is not the balloon dataset: {problem}")
        unpacking.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise PrepareError(
            f"{archive} cannot be unpacked: {error}. Remove it and fetch it again."
        ) from None
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def wanted_members(file: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, Path]]:
    """The files ``balloon/<split>/<name>`` of the archive; nothing that could land elsewhere."""
    members = []
    for member in file.infolist():
        path = PurePosixPath(member.filename)
        link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or link:
            raise PrepareError(f"{file.filename} has the unsafe entry {member.filename!r}")
        top, split, name = path.parts if len(path.parts) == 3 else ("", "", "")
        hidden = name.startswith(".") or member.is_dir()
        if top == "balloon" and split in COUNTS and not hidden:
            members.append((member, Path(*path.parts[1:])))
    if sum(member.file_size for member, _ in members) > MAX_UNPACKED_BYTES:
        raise PrepareError(f"{file.filename} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    return members


def content_problem(folder: Path) -> str | None:
    """What keeps ``folder`` from being the balloon dataset, or None."""
    for split, expected in COUNTS.items():
        path = folder / split / ANNOTATIONS
        try:
            entries = list(json.loads(path.read_text(encoding="utf-8")).values())
            polygons = sum(len(entry["regions"]) for entry in entries)
            sizes = {entry["filename"]: entry["size"] for entry in entries}
        except FileNotFoundError:
            return f"{split}/{ANNOTATIONS} is missing"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{split}/{ANNOTATIONS} is not a VIA annotation file"
        if (len(sizes), polygons) != expected:
            return (
                f"{split} has {len(sizes)} images and {polygons} polygons, "
                f"not {expected[0]} and {expected[1]}"
            )
        for name, size in sizes.items():
            image = folder / split / name
            if not image.is_file():
                return f"{split}/{name} is missing"
            if image.stat().st_size != size:
                return f"{split}/{name} has {image.stat().st_size:,} bytes, not {size:,}"
    return None


if __name__ == "__main__":
    sys.exit(main())
