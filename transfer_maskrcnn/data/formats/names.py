"""From what annotations call an image to its file: exactly one, or a word on why there is none.

A name is taken as it is written, below the folder of the images or from the annotations on. Only
where that fails are the files below that folder listed, and compared rule by rule, from strict to
loose, with what names go through on their way: paths and addresses of other machines, uploads,
other letters, other suffixes. However loose the rule, folders that tell images apart must agree,
no file goes to two names, and of two files that fit equally none is taken.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from transfer_maskrcnn.errors import nearest
from transfer_maskrcnn.text import listed

from .base import RawImage, Reason
from .files import IMAGE_SUFFIXES, THREADS, clip, existing, probe_image, walk

_MOST_FILES = 1_000_000  # below image_root: more are no dataset, but somebody's whole disk
_MOST_ALIKE = 16  # files of one name that are remembered: two are enough to be in doubt
_MOST_SIMILAR = 1_000  # names that are compared letter by letter with a missing one
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://[^/]*", re.I)  # with the host; C:/ is none
_LOCAL_FILE = re.compile(r".*\?(?:.*&)?d=([^&]*).*")  # Label Studio's /data/local-files/?d=a/b.jpg
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio's 1a2b3c4d-name.jpg
_ROBOFLOW = re.compile(r"_([a-z]+)\.rf\.[0-9a-z]+\.[a-z]+$")  # name_png.rf.1a2b3c.jpg
_OTHER_SUFFIXES = frozenset((".gif", ".jp2", ".jfif", ".heic", ".heif", ".avif", ".dcm", ".npy"))
_TEXT_SUFFIXES = frozenset((".json", ".txt", ".xml", ".csv", ".yaml"))  # of no image
_PARTS = frozenset(("train", "training", "val", "valid", "validation", "test"))

Key = Callable[[str], str]
Folders = tuple[str, ...]


def _plain(name: str) -> str:
    return normalize("NFC", name)


@lru_cache(maxsize=1_000)  # of folders
def _fold(name: str) -> str:
    """A name in small letters and without %20; one suffix for formats that have two."""
    name = _plain(unquote(name)).strip().casefold()
    return re.sub(r"\.jpeg$", ".jpg", re.sub(r"\.tiff$", ".tif", name))


def _origin(name: str) -> str:
    """A name as it was before an upload changed it."""
    return _fold(_ROBOFLOW.sub(r".\1", _UPLOAD.sub("", _fold(name), count=1)))


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(_fold(name))
    return stem if suffix in IMAGE_SUFFIXES | _OTHER_SUFFIXES else stem + suffix


class _Rule(NamedTuple):
    """A stated base name is a file's where their keys are equal."""

    stated: Key
    there: Key
    words: str = ""


_RULES = (
    _Rule(_plain, _plain),
    _Rule(_fold, _fold, "in other letters"),
    _Rule(_origin, _fold, "without the prefix or hash of an upload"),
    _Rule(_fold, _origin, "with the prefix or hash of an upload"),
    _Rule(_stem, _stem, "with another suffix"),
)
_BY_ANNOTATION = _Rule(_stem, _stem, "named as the annotation file is")


def parts_of(name: str) -> list[str]:
    r"""The folders and the base name in a path of any machine, or in an address.

    ``C:\a\b.jpg``, ``https://host/a/b.jpg?v=1`` and ``../x/../a/b.jpg`` are all a, b.jpg.
    """
    text, is_address = _ADDRESS.subn("", name.strip(), count=1)
    if is_address or "?" in text:
        text = unquote(_LOCAL_FILE.sub(r"\1", text).partition("?")[0])
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    while ".." in parts:
        del parts[: parts.index("..") + 1]
    return parts[1:] if parts and re.fullmatch("[A-Za-z]:", parts[0]) else parts


class ImageFolder:
    """The images of a dataset, found by what its annotations call them.

    Attributes:
        root: the folder of the images.
    """

    def __init__(self, image_root: str | Path | None, beside: Path):
        """
        Args:
            image_root: the folder of the images; None: ``beside``.
            beside: the folder of the annotations.
        """
        self.root = beside if image_root is None else existing(image_root, "image_root", "folder")
        self._beside = beside

    def locate(self, images: Sequence[RawImage], stems: Sequence[str] = ()) -> None:
        """Replace the name that annotations state by the path of its file, in every image.

        An image whose name had to be read in another way has that in its ``repairs``. One that has
        no file gets the ``problem`` IMAGE_MISSING, a ``note`` on what is there instead, and the
        path that it ought to have.

        Args:
            images: ``file_name`` is what the annotations state, of any type.
            beside: for each image, the folder of its annotations, from which on its name may be
                meant, too. Default: that of the dataset.
            stems: for each image, the path without suffix, from the annotations on, that its file
                may have instead, in formats with one annotation file an image.
        """
        stated = [_text(image.file_name) for image in images]
        for image, name in zip(images, stated, strict=True):
            image.file_name = os.path.join(self.root, name)
        are_there = _are_files([image.file_name for image in images])
        if stems:
            are_there = [
                is_there and not _is_text(p) for p, is_there in zip(stated, are_there, strict=True)
            ]
        missing = [
            i
            for i, image in enumerate(images)
            if not (are_there[i] and not (stems and _is_text(stated[i])))
            and not (image.problem or self._read(image, stated[i]))
        ]
        if not missing:
            return
        tree = _Tree(self.root, stated)
        tree.search(missing, stems)
        for i in missing:
            if i not in tree.found:
                images[i].problem, images[i].note = Reason.IMAGE_MISSING, tree.why_not(i)
                continue
            n, words = tree.found[i]
            images[i].file_name = os.path.join(self.root, tree.files[n])
            if stated[i]:
                note = f"for {clip(repr(stated[i]))}{words and ': '}{words}"
                reason = Reason.FOUND_ELSEWHERE if words else Reason.NAME_SPELT
                images[i].repairs.append((reason, note))

    def _read(self, image: RawImage, name: str) -> bool:
        """Whether a name leads to a file in its own notation, also from the annotations on."""
        plain = re.sub("^file://", "", name.strip()).replace("\\", "/")
        root = os.path.abspath(self.root)
        for folder in (self.root, self._beside):
            path = os.path.join(folder, plain)
            if _is_text(plain) or not os.path.isfile(path):
                continue
            whole = os.path.abspath(path)
            if whole.startswith(os.path.join(root, "")) and os.path.isfile(whole):
                path = os.path.join(self.root, os.path.relpath(whole, root))
            elif folder is not self.root:
                note = f"for {clip(repr(name))}: beside the annotations, not in image_root"
                image.repairs.append((Reason.FOUND_ELSEWHERE, note))
            if plain != name:
                image.repairs.append((Reason.NAME_SPELT, f"for {clip(repr(name))}"))
            image.file_name = path
            return True
        return False


def _text(name: object) -> str:
    """What annotations state as a name; "" where it is none."""
    return name if isinstance(name, str) else str(name) if type(name) is int else ""


def _is_text(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _TEXT_SUFFIXES


def _are_files(paths: Sequence[str]) -> list[bool]:
    """Whether each is a file; asked in threads, since on a network that takes its time."""
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(lambda k: [*map(os.path.isfile, paths[k::THREADS])], range(THREADS)))
    return [parts[i % THREADS][i // THREADS] for i in range(len(paths))]


class _Tree:
    """The files below a folder, and which of them are those that names state.

    Attributes:
        files: their paths from the folder on.
        found: number of a name -> that of its file, and what differs.
    """

    def __init__(self, root: Path, stated: Sequence[str]):
        top = len(os.path.join(root, ""))
        self.files = [path[top:] for path in islice(walk(root), _MOST_FILES)]
        self.found: dict[int, tuple[int, str]] = {}
        self._root, self._stated = root, stated
        self._notes: dict[int, str] = {}
        self._twins: set[tuple[Folders, str]] = set()  # where files have the names of others
        self._names = [*map(parts_of, stated)]
        self._parts = [file.split(os.sep) for file in self.files]
        self._folders = [tuple(map(_fold, parts[:-1])) for parts in self._parts]
        self._own = _fold(os.path.basename(os.path.abspath(root)))
        # Folders that there are: another one with the name that is stated is another folder.
        self._known = {folder for folders in self._folders for folder in folders}
        with suppress(OSError):  # no right to list what lies beside it
            self._known.update(map(_fold, os.listdir(os.path.dirname(os.path.abspath(root)))))
        above = [[*map(_fold, parts[:-1])] for parts in self._names if parts]
        levels = [len(set(level)) for level in zip(*above, strict=False)]
        shared = len([*takewhile(lambda count: count == 1, levels)])
        # Folders in which the names differ.
        self._telling = {folder for folders in above for folder in folders[shared:]}

    def search(self, missing: Sequence[int], stems: Sequence[str]) -> None:
        """Fill ``found``, each by the strictest rule that leads to a file."""
        number = {file: n for n, file in enumerate(self.files)}
        others = set(range(len(self._stated))).difference(missing)
        taken = {i: number.get(os.path.normpath(self._stated[i]), -1) for i in others}
        names = {i: self._names[i] for i in missing if self._names[i]}
        for rule in _RULES:
            self._apply(rule, names, taken)
        if stems:
            rest = [i for i in missing if i not in taken and i not in self._notes]
            self._apply(_BY_ANNOTATION, {i: stems[i].split("/") for i in rest}, taken)

    def _apply(self, rule: _Rule, names: dict[int, list[str]], taken: dict[int, int]) -> None:
        """Take out of ``names`` what the rule decides; what it finds goes into ``taken``."""
        if not names:
            return
        index = self._index(rule.there)
        for i, own in taken.items():
            alike = index.get(rule.stated(self._names[i][-1]), ()) if self._names[i] else ()
            self._twins.update(self._place(n) for n in alike if n != own)
        hits: dict[int, tuple[int, int]] = {}
        for i, (*folders, base) in list(names.items()):
            same, agreeing = _longest(index, [*map(_fold, folders)], rule.stated(base))
            if len(same) == 1:
                hits[i] = same[0], agreeing
            elif same:
                self._twins.update(map(self._place, same))
                both = listed(self.files[n] for n in same[:2])
                self._notes[i] = f"{both} fit equally; name the folder, or set image_root to it"
                del names[i]
        claims: dict[int, list[int]] = defaultdict(list)
        for i, (n, agreeing) in hits.items():
            if but := self._refusal(names[i][:-1], n, agreeing, rule):
                self._notes.setdefault(i, f"the nearest is {self.files[n]}, but {but}")
            else:
                claims[n].append(i)
        done = set(taken.values())
        for n, group in claims.items():
            others = {self._stated[i] for i in group}
            but = "it is the image of another name" if n in done or len(others) > 1 else ""
            if not but and rule.stated is _stem and not self._is_image(n):
                but = "it is no image"
            for i in group:
                if but:
                    self._notes.setdefault(i, f"the nearest is {self.files[n]}, but {but}")
                    continue
                self.found[i] = n, self._differs(names[i][:-1], n, hits[i][1], rule)
                taken[i] = n
                del names[i]

    def _index(self, key: Key) -> dict[str, list[int]]:
        """Files by key, by folder and key, and so on; the whole path with a slash in front."""
        index: dict[str, list[int]] = defaultdict(list)
        for n, (folders, parts) in enumerate(zip(self._folders, self._parts, strict=True)):
            for tail in _tails(folders, key(parts[-1])):
                if len(index[tail]) < _MOST_ALIKE:
                    index[tail].append(n)
        return index

    def _place(self, n: int) -> tuple[Folders, str]:
        """The folder and the suffix of a file."""
        return self._folders[n], os.path.splitext(_fold(self._parts[n][-1]))[1]

    def _is_image(self, n: int) -> bool:
        problem = probe_image(os.path.join(self._root, self.files[n])).problem
        return problem not in (Reason.IMAGE_EMPTY, Reason.IMAGE_NO_IMAGE)

    def _refusal(
        self,
        folders: list[str],
        n: int,
        agreeing: int,
        rule: _Rule,
    ) -> str:
        """Why a file of the right name is not the image, "" where it may be."""
        left, above = self._differing(folders, n, agreeing)
        is_loose = rule.stated is _stem
        if above and (left or is_loose):
            where = "/".join(left) or "image_root"
            root = os.path.join(self._root, *above)
            return f"it is not in {where}; if it is the image, set image_root to {root}"
        last = _fold(left[-1]) if left else self._own
        if last != self._own and (
            last in self._known or self._own in self._telling or are_parts(last, self._own)
        ):
            return f"image_root is {self._own}, and the name says {last}"
        if (above or is_loose) and self._place(n) in self._twins:
            return "files there have the names of other images, too"
        return ""

    def _differing(self, folders: list[str], n: int, agreeing: int) -> tuple[list[str], list[str]]:
        """The first folders of a stated name, and of a file, behind which they agree."""
        own = self._parts[n][:-1]
        return folders[: len(folders) - agreeing], own[: len(own) - agreeing]

    def _differs(self, folders: list[str], n: int, agreeing: int, rule: _Rule) -> str:
        left, above = self._differing(folders, n, agreeing)
        words = [rule.words] if rule.words else []
        if left:
            is_root = ", which image_root already is" if _fold(left[-1]) == self._own else ""
            words.append(f"without {'/'.join(left)}/{is_root}")
        if above:
            words.append(f"in {'/'.join(above)}/")
        return ", ".join(words)

    def why_not(self, i: int) -> str:
        """What is known of a name without a file; may be nothing."""
        name = self._stated[i]
        if i in self._notes or not self._names[i]:
            return self._notes.get(i, "no file name is stated")
        if not self.files:
            return "image_root holds no files"
        if _ADDRESS.match(name):
            return "an address; fetch the images into image_root"
        similar = self._by_digits.get(_digits(self._names[i][-1]), ())[:_MOST_SIMILAR]
        return nearest(self._names[i][-1], similar).lstrip("; ")

    @cached_property
    def _by_digits(self) -> Mapping[str, list[str]]:
        """Base names by their digits: another number makes another image."""
        names: dict[str, list[str]] = defaultdict(list)
        for *_, base in self._parts:
            names[_digits(base)].append(base)
        return names


def _digits(name: str) -> str:
    return re.sub("[^0-9]", "", name)


def are_parts(one: str, other: str) -> bool:
    """Whether two folders look like parts of one set: cam0 and cam1, train and val."""
    numbered = re.sub("[0-9]+", "#", one) == re.sub("[0-9]+", "#", other)
    return numbered or {one, other} <= _PARTS


def _tails(folders: Sequence[str], base: str) -> list[str]:
    """base, folder/base, ..., and the whole with a slash in front."""
    tails = [base, *(base for _ in folders), ""]
    for k, folder in enumerate(reversed(folders), start=1):
        tails[k] = f"{folder}/{tails[k - 1]}"
    tails[-1] = f"/{tails[-2]}"
    return tails


def _longest(
    index: Mapping[str, list[int]], folders: Sequence[str], base: str
) -> tuple[Sequence[int], int]:
    """The files with most of the last folders of a name, and how many these are."""
    for k, tail in reversed(list(enumerate(_tails(folders, base)))):
        if tail in index:
            return index[tail], min(k, len(folders))
    return (), 0
