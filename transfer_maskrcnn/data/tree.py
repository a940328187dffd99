"""What lies below a folder, and which of its folders names of images belong to."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path

from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES, MOST_FILES, walk
from transfer_maskrcnn.data.formats.names import are_parts, part_of, parts_of, words_of
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import listed

_SAMPLE = 50  # names that are looked up, to find the folder of thousands
_ENOUGH = 0.9  # of them in one folder: it is the folder


class Tree:
    """The folders and files below one; hidden ones, as macOS and git leave, do not count.

    Attributes:
        files: of each folder with files, their names, sorted.
        broken: json and yaml files that cannot be used, and why.
        unread: json files that are no dataset, and what they are instead.
    """

    def __init__(self, root: Path):
        self.root = root
        self.broken: dict[Path, str] = {}
        self.unread: dict[Path, str] = {}
        names = defaultdict(list)
        for path in islice(walk(root), MOST_FILES):
            names[os.path.dirname(path)].append(os.path.basename(path))
        self.files = {Path(folder): own for folder, own in names.items()}

    @cached_property
    def images(self) -> dict[Path, list[str]]:
        """The names of the images of each folder that has any."""
        named = {
            folder: [n for n in names if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
            for folder, names in self.files.items()
        }
        return {folder: names for folder, names in named.items() if names}

    @cached_property
    def _folders_of(self) -> dict[str, list[Path]]:
        """Name of an image without suffix, in small letters -> the folders of such images."""
        found = defaultdict(list)
        for folder, names in self.images.items():
            for name in names:
                found[_stem(name)].append(folder)
        return found

    @contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """What is wrong with a file or folder goes into ``broken``."""
        try:
            yield
        except DatasetError as error:
            self.broken[path] = str(error)

    def has_image(self, name: str) -> bool:
        """Whether an image has this name, with any suffix, in any folder."""
        return _stem(name) in self._folders_of

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
            near: the annotations, or what they are called without suffix. Folders that are named
                for another part or set are not theirs; of several the nearest is. Where none has
                most of the images, it is the folder above those that have some.

        Raises:
            DatasetError: there are only folders of another part or set.
        """
        votes: Counter[Path] = Counter()
        sample = [parts_of(name.lower()) for name in stated[:: max(1, len(stated) // _SAMPLE)]]
        called = [parts for parts in sample if parts and self.has_image(parts[-1])]
        for *folders, name in called:
            fits = {}
            for folder in self._folders_of[_stem(name)]:
                upwards = [part.lower() for part in reversed(self.local(folder).parts)]
                agreeing = os.path.commonprefix([folders[::-1], upwards])  # noqa: RUF071 - of parts
                fits[folder] = len(agreeing)
            best = max(fits.values())
            votes.update({[f, *f.parents][n] for f, n in fits.items() if n == best})
        if not votes:
            return None
        own = [folder for folder in votes if not self._is_of_another(folder, near)]
        if not own:
            there = listed(sorted(str(self.local(folder)) for folder in votes))
            raise DatasetError(f"{near}: its images are not there; only {there} is")
        first = max(
            sorted(own), key=lambda f: (votes[f], len(os.path.commonpath([f, near])), -len(f.parts))
        )
        is_it = votes[first] >= _ENOUGH * len(called)
        return first if is_it else Path(os.path.commonpath(own))

    def _is_of_another(self, folder: Path, near: Path) -> bool:
        """Whether a folder is named for another part or set than annotations that are ``near``."""
        one, other = (self.local(path).parts for path in (folder, near))
        apart, own = set(one).difference(other), set(other).difference(one)
        if any(name.lower() in _names_in(mine) for name in apart for mine in own):
            return False
        return any(are_parts(a, b) for a in apart for b in own) or any(
            name.lower() in self._sets for name in apart
        )

    @cached_property
    def _sets(self) -> set[str]:
        """What json files, but those of images, are called, and the words of that."""
        names = {n for names in self.files.values() for n in names if n.lower().endswith(".json")}
        return {part for name in names if not self.has_image(name) for part in _names_in(name[:-5])}


def _names_in(text: str) -> set[str]:
    return {text.lower(), *re.split(r"[\W_]+", text.lower())}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].lower()
