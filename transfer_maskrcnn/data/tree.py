"""What lies below a folder, and which of its folders names of images belong to."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES

_PARTS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_SAMPLE = 50  # names that are looked up, to find the folder of thousands
_ENOUGH = 0.9  # of them in one folder: it is the folder


def part_of(words: str | os.PathLike[str]) -> str:
    """train, val or test, as a path or a name says, its last word before the others; or ""."""
    said = [_PART_OF[word] for word in words_of(words) if word in _PART_OF]
    return said[-1] if said else ""


def words_of(text: str | os.PathLike[str]) -> list[str]:
    """The words in a path or name, in small letters, without numbers."""
    return re.findall(r"[^\W\d_]+", os.fspath(text).lower())


class Tree:
    """The folders and files below one; hidden ones, as macOS and git leave, do not count.

    Attributes:
        files: of each folder, the names of its files, sorted.
        unread: json and yaml files that are no dataset, and what they are instead.
    """

    def __init__(self, root: Path, deepest: int = 64):
        self.root = root
        self.files: dict[Path, list[str]] = {}
        self.unread: dict[Path, str] = {}
        seen = {os.path.realpath(root)}
        for folder, inside, names in os.walk(root, followlinks=True):
            here = Path(folder)
            self.files[here] = sorted(name for name in names if not _is_hidden(name))
            deeper = inside if len(here.relative_to(root).parts) < deepest else []
            links = [os.path.realpath(here / name) for name in deeper]  # which may lead back
            inside[:] = sorted(
                name
                for name, link in zip(deeper, links, strict=True)
                if link not in seen and not _is_hidden(name)
            )
            seen.update(links)

    @cached_property
    def images(self) -> dict[Path, list[str]]:
        """The names of the images of each folder that has any."""
        named = {
            folder: [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            for folder, names in self.files.items()
        }
        return {folder: names for folder, names in named.items() if names}

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for folder, names in self.images.items():
            for name in names:
                found[Path(name).stem.lower()].append(folder / name)
        return found

    def has_image(self, name: str) -> bool:
        """Whether an image has this name, with any suffix, in any folder."""
        return _stem(name) in self._by_stem

    def local(self, path: Path) -> Path:
        return path.relative_to(self.root)

    def part(self, path: Path) -> str:
        """As the names below the root say, or else the root's, where it says nothing more."""
        own = self.root.resolve().name
        return part_of(self.local(path)) or (part_of(own) if len(words_of(own)) == 1 else "")

    def image_root(self, stated: Sequence[str], near: Path) -> Path | None:
        """The folder that the images lie in as annotations call them; None where none is there.

        Args:
            stated: what they are called, perhaps with folders.
            near: of several such folders the one that is of the same part and nearest. Where none
                has most of the images, it is the folder above those that have some.
        """
        votes: Counter[Path] = Counter()
        called = [
            name for name in stated[:: max(1, len(stated) // _SAMPLE)] if self.has_image(name)
        ]
        for name in called:
            folders = re.split(r"[\\/]", name.lower())[:-1]
            fits = [
                (common_end(folders, [p.lower() for p in self.local(image).parts[:-1]]), image)
                for image in self._by_stem[_stem(name)]
            ]
            best = max(length for length, _ in fits)
            votes.update({image.parents[length] for length, image in fits if length == best})
        if not votes:
            return None

        def rank(folder: Path) -> tuple[int, bool, int]:
            alike = part_of(self.local(folder)) == part_of(self.local(near))
            return votes[folder], alike, len(Path(os.path.commonpath([folder, near])).parts)

        first = max(votes, key=rank)
        is_it = votes[first] >= _ENOUGH * len(called)
        return first if is_it else Path(os.path.commonpath(votes))


def _stem(name: str) -> str:
    return Path(re.split(r"[\\/]", name)[-1]).stem.lower()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the last items of two sequences are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
