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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from transfer_maskrcnn.errors import nearest
from transfer_maskrcnn.text import listed

from .base import RawImage, Reason
from .files import IMAGE_SUFFIXES, MOST_FILES, clip, existing, in_threads, probe_image, walk

_MOST_ALIKE = 100  # files of one name, or with its digits, that are remembered
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://[^/]*", re.I)  # with the host; C:/ is none
_PARAMETER = re.compile(r"(?:^|&)\w+=([^&]*\.\w+)(?=&|$)")  # /data/local-files/?d=a/b.jpg
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio's 1a2b3c4d-name.jpg
_NO_DATE = re.compile(rf"(?![0-9]+-){_UPLOAD.pattern}")
_ROBOFLOW = re.compile(r"_([a-z]+)\.rf\.[0-9a-z]+\.[a-z]+$")  # name_png.rf.1a2b3c.jpg
_SUFFIXES = IMAGE_SUFFIXES | {*(".gif", ".jp2", ".jfif", ".heic", ".heif", ".avif", ".dcm", ".npy")}
_PARTS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_NO_IMAGE = "it is no image that can be read"
_NO_IMAGES = (Reason.IMAGE_EMPTY, Reason.IMAGE_NO_IMAGE, Reason.IMAGE_FORMAT)

Folders = tuple[str, ...]


def words_of(text: str | os.PathLike[str]) -> list[str]:
    """The words in a path or name, in small letters, without numbers."""
    return re.findall(r"[^\W\d_]+", os.fspath(text).lower())


def part_of(words: str | os.PathLike[str]) -> str:
    """train, val or test, as a path or a name says, its last word before the others; or ""."""
    said = [_PART_OF[word] for word in words_of(words) if word in _PART_OF]
    return said[-1] if said else ""


def belong_together(one: str, other: str) -> bool:
    """Whether names of datasets differ by the words of their parts alone, as x_train and x_val."""
    mine, its = (
        [word for word in re.split(r"[\W_]+", name.lower()) if not part_of(word)]
        for name in (one, other)
    )
    return mine == its


def _plain(name: str) -> str:
    return normalize("NFC", name)


@lru_cache(maxsize=1_000)  # of folders
def _fold(name: str) -> str:
    """A name in small letters and without %20; one suffix for formats that have two."""
    return re.sub(r"(?<=\.jp)e(?=g$)|(?<=\.tif)f$", "", _plain(unquote(name)).strip().casefold())


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(_fold(name))
    return stem if suffix in _SUFFIXES else stem + suffix


class _Rule(NamedTuple):
    """A stated base name is a file's where their keys are equal."""

    stated: Callable[[str], str]
    there: Callable[[str], str]
    words: str = ""


_BY_ANNOTATION = _Rule(_stem, _stem, "named as the annotation file is")


def parts_of(name: str) -> list[str]:
    r"""The folders and the base name in a path of any machine, or in an address.

    ``C:\a\b.jpg``, ``https://host/a/b.jpg?v=1`` and ``../x/../a/b.jpg`` are all a, b.jpg.
    """
    text, is_address = _ADDRESS.subn("", name.strip(), count=1)
    if is_address or "?" in text:
        text, _, query = text.partition("?")
        named = None if os.path.splitext(text)[1].lower() in _SUFFIXES else _PARAMETER.search(query)
        text = unquote(named[1] if named else text)
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
            stems: for each image, the path without suffix, from the annotations on, that its file
                may have instead, in formats with one annotation file an image.
        """
        stated = [str(i.file_name) if type(i.file_name) in (str, int) else "" for i in images]
        for image, name in zip(images, stated, strict=True):
            image.file_name = os.path.join(self.root, name)
        are_there = in_threads(_is_image, [image.file_name for image in images])
        missing = [
            i
            for i, image in enumerate(images)
            if not (are_there[i] or image.problem or self._read(image, stated[i]))
        ]
        if not missing:
            return
        tree = _Tree(self.root, stated)
        tree.search(missing, stems)
        for i in missing:
            if i not in tree.found:
                if not os.path.isfile(images[i].file_name):  # else, no image: its header says what
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
        in_root, beside = (os.path.join(folder, plain) for folder in (self.root, self._beside))
        path = in_root if _is_image(in_root) else beside
        if not _is_image(path):
            return False
        inner = os.path.relpath(path, self.root)
        if not inner.startswith(os.path.join(os.pardir, "")):
            path = os.path.join(self.root, inner)
        elif path != in_root:
            note = f"for {clip(repr(name))}: beside the annotations, not in image_root"
            image.repairs.append((Reason.FOUND_ELSEWHERE, note))
        if plain != name:
            image.repairs.append((Reason.NAME_SPELT, f"for {clip(repr(name))}"))
        image.file_name = path
        return True


def _is_image(path: str, believe: bool = True) -> bool:
    """Whether there is such a file, and it is an image, by its suffix or else by its content."""
    is_named = believe and os.path.splitext(path)[1].lower() in _SUFFIXES
    return os.path.isfile(path) and (is_named or probe_image(path).problem not in _NO_IMAGES)


class _Hit(NamedTuple):
    """A file of the right base name, and the folders in front of those that agree, too: of the
    stated name, and of the file below the folder of the images."""

    n: int
    left: Folders
    above: Folders


class _Tree:
    """The files below a folder, and which of them are those that names state.

    Attributes:
        files: their paths from the folder on.
        found: number of a name -> that of its file, and what differs.
    """

    def __init__(self, root: Path, stated: Sequence[str]):
        top = len(os.path.join(root, ""))
        self.files = [path[top:] for path in islice(walk(root), MOST_FILES)]
        self.found: dict[int, tuple[int, str]] = {}
        self._root, self._stated = os.path.abspath(root), stated
        self._notes: dict[int, str] = {}
        self._twins: set[tuple[Folders, str]] = set()  # where files have the names of others
        self._below: dict[int, Folders] = {}  # of names: their file's folder below the stated one
        self._names = [*map(parts_of, stated)]
        self._parts = [file.split(os.sep) for file in self.files]
        self._folders = [tuple(map(_fold, parts[:-1])) for parts in self._parts]
        self._known = {folder for folders in self._folders for folder in folders}
        self._told = {
            (k, _fold(folder))
            for *folders, _ in filter(None, self._names)
            for k, folder in enumerate(reversed(folders))
        }
        self._why_elsewhere = lru_cache(self._elsewhere)
        has_uploads = any(_NO_DATE.match(p[-1]) for p in (*self._names, *self._parts) if p)
        self._upload = _UPLOAD if has_uploads else _NO_DATE

    def _origin(self, name: str) -> str:
        """A name as it was before an upload changed it."""
        return _fold(_ROBOFLOW.sub(r".\1", self._upload.sub("", _fold(name), count=1)))

    def search(self, missing: Sequence[int], stems: Sequence[str]) -> None:
        """Fill ``found``, each by the strictest rule that leads to a file."""
        number = {file: n for n, file in enumerate(self.files)}
        taken = {
            i: number.get(os.path.normpath(self._stated[i]), -1)
            for i in set(range(len(self._stated))).difference(missing)
        }
        self._below.update(dict.fromkeys(taken, ()))
        names = {i: self._names[i] for i in missing if self._names[i]}
        for rule in (
            _Rule(_plain, _plain),
            _Rule(_fold, _fold, "in other letters"),
            _Rule(self._origin, _fold, "without the prefix or hash of an upload"),
            _Rule(_fold, self._origin, "with the prefix or hash of an upload"),
            _Rule(_stem, _stem, "with another suffix"),
        ):
            self._apply(rule, names, taken)
        if stems:
            rest = [i for i in missing if _NO_IMAGE in self._notes.get(i, _NO_IMAGE)]
            names = {i: stems[i].split("/") for i in rest if i not in taken}
            self._apply(_BY_ANNOTATION, names, taken)

    def _apply(self, rule: _Rule, names: dict[int, list[str]], taken: dict[int, int]) -> None:
        """Take out of ``names`` what the rule decides; what it finds goes into ``taken``."""
        if not names:
            return
        index = self._index(rule.there)
        for i, own in taken.items():
            alike = index.get(rule.stated(self._names[i][-1]), ()) if self._names[i] else ()
            self._twins.update(self._place(n) for n in alike if n != own)
        hits: dict[int, _Hit] = {}
        for i, (*folders, base) in list(names.items()):
            same, agreeing = _longest(index, [*map(_fold, folders)], rule.stated(base))
            if len(same) > 1:
                self._twins.update(map(self._place, same))
                both = listed(self.files[n] for n in same[:2])
                self._notes[i] = f"{both} fit equally; name the folder, or set image_root to it"
                del names[i]
            for n in same if len(same) == 1 else ():
                above = self._parts[n][: len(self._parts[n]) - 1 - agreeing]
                hits[i] = _Hit(n, tuple(folders[: len(folders) - agreeing]), tuple(above))
        self._below.update({i: hit.above for i, hit in hits.items() if not hit.left})
        inside = Counter(self._below.values())
        doubts = {i: self._refusal(hit, rule, inside) for i, hit in hits.items()}
        claims = Counter(
            n for n, _ in {(hit.n, self._stated[i]) for i, hit in hits.items() if not doubts[i]}
        )
        done = set(taken.values())
        for i, hit in hits.items():
            is_other = hit.n in done or claims[hit.n] > 1
            is_image = _is_image(
                os.path.join(self._root, self.files[hit.n]), believe=rule.stated is not _stem
            )
            but = doubts[i] or (
                "it is the image of another name" if is_other else "" if is_image else _NO_IMAGE
            )
            if but:
                self._notes.setdefault(i, f"the nearest is {self.files[hit.n]}, but {but}")
                continue
            without = f"without {'/'.join(hit.left)}/" if hit.left else ""
            where = f"in {'/'.join(hit.above)}/" if hit.above else ""
            self.found[i] = hit.n, ", ".join(filter(None, (rule.words, without, where)))
            taken[i] = hit.n
            del names[i]

    def _index(self, key: Callable[[str], str]) -> dict[str, list[int]]:
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

    def _refusal(self, hit: _Hit, rule: _Rule, inside: Counter[Folders]) -> str:
        """Why a file of the right name is not the image, "" where it may be."""
        is_loose = rule.stated is _stem
        if hit.above and (hit.left or is_loose):
            said, own = _fold(hit.left[-1]) if hit.left else "", _fold(hit.above[-1])
            tells = (0, own) in self._told or (said and are_parts(said, own, 1))
            root = os.path.join(self._root, *hit.above)
            advice = "" if tells else f"; if it is the image, set image_root to {root}"
            return f"it is not in {'/'.join(hit.left) or 'image_root'}{advice}"
        if (hit.above or is_loose) and self._place(hit.n) in self._twins:
            return "files there have the names of other images, too"
        if hit.above and inside[hit.above] <= inside[()]:
            return "others are where they are stated; if it is the image, move it to them"
        return self._why_elsewhere(hit.left)

    def _elsewhere(self, left: Folders) -> str:
        """Why a file whose stated name goes on with ``left`` above image_root is another; or ""."""
        real = self._root.split(os.sep)
        for k, (said, own) in enumerate(zip(reversed(left), reversed(real), strict=False), 1):
            if _fold(said) != _fold(own):
                is_other = (
                    _fold(said) in self._known
                    or (k - 1, _fold(own)) in self._told
                    or are_parts(_fold(said), _fold(own), k)
                    or os.path.isdir(os.path.join(os.sep, *real[:-k], *left[-k:]))
                )
                own, said = ("/".join(folders[-k:]) for folders in (real, left))
                return f"image_root is {own}, and the name says {said}" if is_other else ""
        return ""

    def why_not(self, i: int) -> str:
        """What is known of a name without a file; may be nothing."""
        if i in self._notes or not self._names[i]:
            return self._notes.get(i, "no file name is stated")
        if not self.files:
            return "image_root holds no files"
        if _ADDRESS.match(self._stated[i]):
            return "an address; fetch the images into image_root"
        similar = self._by_digits.get(_digits(self._names[i][-1]), ())
        return nearest(self._names[i][-1], (self._parts[n][-1] for n in similar)).lstrip("; ")

    @cached_property
    def _by_digits(self) -> Mapping[str, list[int]]:
        """Files by the digits of their base names: another number makes another image."""
        return self._index(_digits)


def _digits(name: str) -> str:
    """All digits of a name but the zeros in front of a number."""
    return re.sub("[^0-9]|(?<![0-9])0+", "", name)


def are_parts(one: str, other: str, level: int = 1) -> bool:
    """Whether folders look like parts of one set: cam0 and cam1, train2017 and val2017.

    Far above the images, at ``level`` 3 or more, a number tells disks and users apart instead.
    """
    alike = {re.sub("[0-9]+|(?<![a-z])[a-z](?![a-z])", "#", name) for name in (one, other)}
    said = {part_of(one), part_of(other)} - {""}
    return (level < 3 and len(alike) == 1) or len(said) == 2


def _tails(folders: Sequence[str], base: str) -> list[str]:
    """base, folder/base, ..., and the whole with a slash in front."""
    parts = ["", *folders, base]
    return ["/".join(parts[k:]) for k in reversed(range(len(parts)))]


def _longest(
    index: Mapping[str, list[int]], folders: Sequence[str], base: str
) -> tuple[Sequence[int], int]:
    """The files with most of the last folders of a name, and how many these are."""
    for k, tail in reversed(list(enumerate(_tails(folders, base)))):
        if tail in index:
            return index[tail], min(k, len(folders))
    return (), 0
