"""What every exporter shares: a folder that appears whole or not at all, a catalog, and
the images, copied byte for byte, under names that no two share.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image, ImageOps

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.data.formats.base import LoadedDataset
from transfer_maskrcnn.data.formats.files import EXIF_ORIENTATION, IMAGE_SUFFIXES, THREADS
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import atomic_folder, write_text
from transfer_maskrcnn.text import plural


@dataclass(frozen=True)
class CopiedImages:
    """``names[i]`` is the file name of the copy of ``sources[i]``; ``saved_anew`` says of which the
    pixels were saved again, and why."""

    sources: tuple[str, ...]
    names: tuple[str, ...]
    saved_anew: dict[str, str]

    @property
    def stems(self) -> list[str]:
        """The names without suffix; no two are the same, whatever their case."""
        return [Path(name).stem for name in self.names]

    def named(self, dataset: LoadedDataset) -> list[dict[str, Any]]:
        """The dataset's records, with the copies' names."""
        pairs = zip(dataset.dicts, self.names, strict=True)
        return [{**record, "file_name": name} for record, name in pairs]

    def notes(self) -> list[str]:
        counts = Counter(self.saved_anew.values())
        notes = [f"Saved anew as PNG: {plural(n, 'image')} {why}." for why, n in counts.items()]
        renamed = sum(
            Path(source).stem != stem for source, stem in zip(self.sources, self.stems, strict=True)
        )
        if renamed:
            notes.append(f"Renamed, since another had the same name: {plural(renamed, 'image')}.")
        return notes


class Filled(NamedTuple):
    """What an exporter has put into a folder.

    ``entry`` holds the paths in it, and the options, that the format's loader needs; ``notes`` are
    sentences on what the format could not hold as it was.
    """

    copied: CopiedImages
    entry: dict[str, Any]
    notes: Sequence[str] = ()


Fill = Callable[[LoadedDataset, Path], Filled]


def export(format: str, fill: Fill, dataset: LoadedDataset, out: Path) -> list[str]:
    """Write a dataset with its images and a ``catalog.yaml`` into the new folder ``out``.

    Returns:
        sentences on what the format could not hold as it was.

    Raises:
        DatasetError: ``out`` is anything but missing or empty, or the format cannot hold the
            dataset.
    """
    crowds = sum(bool(a["iscrowd"]) for record in dataset.dicts for a in record["annotations"])
    notes = []
    if crowds and format != "coco":
        notes = [
            f"{plural(crowds, 'crowd region')} left out: they are not trained on, and {format} has "
            "no flag for them. coco has one."
        ]
        dicts = [
            {**record, "annotations": [a for a in record["annotations"] if not a["iscrowd"]]}
            for record in dataset.dicts
        ]
        dataset = replace(dataset, dicts=dicts)
    with new_folder(out) as folder:
        filled = fill_folder(format, fill, dataset, folder, out)
    return [*notes, *filled.notes, *filled.copied.notes()]


def fill_folder(
    format: str, fill: Fill, dataset: LoadedDataset, folder: Path, out: str | os.PathLike[str]
) -> Filled:
    """Fill ``folder``, and write a catalog of one dataset, named after ``out`` and the format."""
    filled = fill(dataset, folder)
    name = f"{Path(out).expanduser().resolve().name}_{format}"
    content = {name: {"format": format, **filled.entry, "classes": list(dataset.classes)}}
    write_yaml(folder / "catalog.yaml", content)
    return filled


def write_yaml(path: Path, content: Any) -> None:
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


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
    with atomic_folder(final) as temporary:
        yield temporary


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def common_folder(paths: Iterable[str]) -> str:
    """The absolute path of the deepest folder that all these files lie in, at some depth; "" of
    none."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    return os.path.commonpath(folders) if folders else ""


def copy_images(sources: Sequence[str], folder_of: Callable[[str], Path]) -> CopiedImages:
    """Copy images, each into ``folder_of(stem)``, which is made where it is missing.

    One that EXIF turns, and one whose suffix tools do not know as an image's, is saved as PNG, the
    pixels upright: annotations are in the frame that a viewer shows.
    """

    stems = distinct_stems(sources)
    pool = ThreadPoolExecutor(THREADS)
    try:
        copies = pool.map(_copy, map(Path, sources), map(folder_of, stems), stems)
        done = list(progress(copies, "copying images", total=len(stems)))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, the rest is not worth it
    names = tuple(name for name, _ in done)
    anew = {source: why for source, (_, why) in zip(sources, done, strict=True) if why}
    return CopiedImages(tuple(sources), names, anew)


def image_files(dataset: LoadedDataset) -> tuple[str, ...]:
    return tuple(record["file_name"] for record in dataset.dicts)


def distinct_stems(files: Sequence[str]) -> list[str]:
    """The name without suffix of each file; where one is taken, its folder's name goes before it,
    then a number behind it. Two that differ in case alone are taken for the same."""
    taken: dict[str, str] = {}
    numbers: defaultdict[str, Iterator[int]] = defaultdict(partial(count, 2))
    for file in map(Path, files):
        numbered = (f"{file.stem}_{number}" for number in numbers[file.stem])
        names = chain([file.stem, f"{file.absolute().parent.name}_{file.stem}"], numbered)
        stem = next(name for name in names if name.casefold() not in taken)
        taken[stem.casefold()] = stem
    return list(taken.values())


def _copy(source: Path, folder: Path, stem: str) -> tuple[str, str]:
    """The name of the copy, and why it is no exact one, or ""."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        why = (
            "" if source.suffix.lower() in IMAGE_SUFFIXES else f"with the suffix {source.suffix!r}"
        )
        with suppress(Exception):  # of broken EXIF data, which detectron2 ignores in the same way
            if image.getexif().get(EXIF_ORIENTATION) in range(2, 9):
                why = "turned by EXIF orientation"
        if not why:
            shutil.copyfile(source, folder / (stem + source.suffix))
            return stem + source.suffix, ""
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        upright.save(folder / f"{stem}.png", "PNG")
    return f"{stem}.png", why
