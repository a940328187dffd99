"""What every exporter shares: its report, a folder that appears whole or not at all, a catalog."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import show_as, write_text
from transfer_maskrcnn.text import plural


@dataclass(frozen=True)
class ExportReport:
    """What was written. ``notes`` are sentences on what the format could not hold as it was."""

    images: int
    instances: int
    notes: tuple[str, ...] = ()


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``; it takes that name when the block ends well.

    Raises DatasetError where ``out`` exists already and is anything but an empty folder.
    """
    final = Path(out).expanduser().resolve()
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        state = "is a folder with files in it" if final.is_dir() else "is a file"
        raise DatasetError(
            f"{final} {state}; expected a folder that is empty or does not exist yet, since "
            "nothing is overwritten. Name another one, or move what is there"
        )
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same id
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, final)  # replaces an empty folder, and fails on any other
    except OSError as error:
        show_as(error, temporary, final)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_catalog(
    folder: Path, out: str | os.PathLike[str], format: str, classes: Sequence[str], **entry: Any
) -> None:
    """Write ``catalog.yaml`` with one dataset, named after ``out`` and the format.

    ``entry`` holds the paths, relative to ``folder``, and the options of the format's loader.
    """
    name = f"{Path(out).expanduser().resolve().name}_{format}"
    content = {name: {"format": format, **entry, "classes": list(classes)}}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(folder / "catalog.yaml", text)


def count_instances(dataset: LoadedDataset) -> int:
    return sum(len(record["annotations"]) for record in dataset.dicts)


def crowd_notes(dataset: LoadedDataset, format: str) -> list[str]:
    """The note on crowd regions for a format that has no flag for them; empty without any."""
    count = sum(bool(a["iscrowd"]) for record in dataset.dicts for a in record["annotations"])
    if not count:
        return []
    return [
        f"{plural(count, 'crowd region')} became ordinary: {format} has no flag for crowds. Remove "
        "them, or use coco, which has one."
    ]
