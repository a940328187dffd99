"""Images that show the same: copies at another size or compression, frames of a still camera.

A perceptual hash (the signs of the low frequencies of a 32 x 32 cosine transform) proposes pairs,
and the correlation of the thumbnails and their colours decide. A flipped or cropped copy is not
found.

Two hashes that differ in at most 6 of 63 bits agree in one of 7 bands of 9 bits, whichever bits
they are: each image is compared with those of its bands alone, and only until one is its twin.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from transfer_maskrcnn.data.formats.files import in_threads

SIDE = 32  # pixels of a thumbnail
_BITS, _BANDS = 63, 7
_MOST_BITS = 6  # recompression and resizing flip a few, other pictures about half
_LEAST_CORRELATION = 0.985
_CELLS = 8  # each way, of which the colours are compared: means have little noise
_MOST_TINT = 16  # levels that a channel may stand out more from grey than in the other image
_LEAST_CONTRAST = 3.0  # standard deviation in grey levels: below it, all pictures look alike
_AT_ONCE = 32  # thumbnails
_HASHES_AT_ONCE = 256
# With an image; so many have its hash and are no twins where a still camera sees much that moves.
_MOST_COMPARED = 256
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)

LENGTH = SIDE * SIDE + 3 * _CELLS * _CELLS  # of a thumbnail, in bytes

Integers = NDArray[np.int64]


def thumbnail_of(image: NDArray[np.uint8]) -> bytes:
    """32 x 32 grey bytes, by rows, of an image (channels, height, width), and 3 times 8 x 8: how
    far each of three channels is from grey, 128 where it is grey."""
    small = np.array([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in image])
    grey = small.mean(axis=0)
    apart = np.broadcast_to(small[:3] - grey, (3, SIDE, SIDE))
    cells = apart.reshape(3, _CELLS, SIDE // _CELLS, _CELLS, -1).mean(axis=(2, 4)) / 2 + 128
    return grey.astype(np.uint8).tobytes() + cells.astype(np.uint8).tobytes()


def decoded(image: Image.Image) -> NDArray[np.uint8]:
    """A small version of an image that was opened, upright, (3, height, width)."""
    image.draft("RGB", (4 * SIDE, 4 * SIDE))  # of a JPEG, a fraction is decoded
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)


def _seen(file: str) -> tuple[bytes, bytes]:
    """A digest of the file's bytes and its thumbnail, each b"" where there is none."""
    digest = b""
    try:
        with open(file, "rb") as opened:
            content = opened.read()
        digest = hashlib.sha256(content).digest()
        with Image.open(io.BytesIO(content)) as image:
            return digest, thumbnail_of(decoded(image))
    except Exception:  # Pillow's decoders raise nearly every type of exception
        return digest, b""


def twins(thumbs: Sequence[bytes], among: Sequence[bytes] | None = None) -> dict[int, int]:
    """The images that look like another one, each with one that it looks like.

    Args:
        thumbs: of images, as :func:`thumbnail_of` makes them.
        among: thumbnails of other images to compare them with; None: with those before it.
    """
    own = _Prints(thumbs)
    others = own if among is None else _Prints(among)
    found = {}
    for b in own.clear.tolist():
        a = next(others.like(own, b, b if among is None else len(others.hashes)), None)
        if a is not None:
            found[b] = a
    return found


def groups(files: Sequence[str]) -> list[int]:
    """A number for each image file, the same for all that are the same file or look alike.

    Whatever looks like one image of a group belongs to it. What cannot be read stands alone.
    """
    seen = in_threads(_seen, files)
    prints = _Prints([thumb for _, thumb in seen])
    group = np.arange(len(files))
    first: dict[bytes, int] = {}
    for b, (digest, _) in enumerate(seen):
        a = first.setdefault(digest, b) if digest else b
        group[b] = group[a]
        for a in prints.like(prints, b, b, group) if prints.has_contrast[b] else ():
            group[group == max(group[a], group[b])] = min(group[a], group[b])
    return [int(number) for number in group]


class _Prints:
    """Thumbnails and their hashes.

    Attributes:
        has_contrast: (N,), whether it has a thumbnail, and that tells it from others.
        clear: those that do, in their order.
        hashes: (N,), 63 bits.
    """

    def __init__(self, thumbs: Sequence[bytes]):
        raw = b"".join(thumb or bytes(LENGTH) for thumb in thumbs)
        whole = np.frombuffer(raw, np.uint8).reshape(-1, LENGTH)
        self._pixels, self._tints = whole[:, : SIDE * SIDE], whole[:, SIDE * SIDE :]
        signs = np.zeros((len(thumbs), _BITS + 1), dtype=bool)
        self._mean, self._deviation = np.zeros((2, len(thumbs)), dtype=np.float32)
        for i, pixels in enumerate(self._pixels):  # one by one: of 100,000, floats are 400 MB
            thumb = pixels.astype(np.float32)
            self._mean[i], self._deviation[i] = thumb.mean(), thumb.std()
            low = cv2.dct(thumb.reshape(SIDE, SIDE))[:8, :8].reshape(-1)[1:]
            signs[i, :-1] = low > np.median(low)
        self.has_contrast = self._deviation >= _LEAST_CONTRAST
        self.clear = np.flatnonzero(self.has_contrast)
        self.hashes = np.packbits(signs, axis=1).view(np.uint64)[:, 0]
        bits = signs[:, :-1].reshape(-1, _BANDS, _BITS // _BANDS)
        self._bands = (bits @ 2 ** np.arange(_BITS // _BANDS)).T
        # Of each band, all that have one value follow each other, and keep their order.
        self._order = [self.clear[np.argsort(b[self.clear], kind="stable")] for b in self._bands]
        self._sorted = [b[o] for b, o in zip(self._bands, self._order, strict=True)]

    def like(
        self, other: _Prints, b: int, before: int, group: Integers | None = None
    ) -> Iterator[int]:
        """Those below ``before`` that look like ``b`` of ``other``, of each band the latest first.

        Args:
            group: of each; those that have that of ``b`` by now are passed over.
        """
        left = _MOST_COMPARED
        for band in range(_BANDS):
            ends = (other._bands[band, b], other._bands[band, b] + 1)
            run = self._order[band][slice(*np.searchsorted(self._sorted[band], ends))]
            run = run[: np.searchsorted(run, before)][::-1]
            for start in range(0, len(run), _HASHES_AT_ONCE):
                some = run[start : start + _HASHES_AT_ONCE]
                differing = _ONES[(self.hashes[some] ^ other.hashes[b]).view(np.uint8)]
                near = some[differing.reshape(-1, 8).sum(axis=1) <= _MOST_BITS]
                while len(near := near if group is None else near[group[near] != group[b]]):
                    part, near = near[:_AT_ONCE], near[_AT_ONCE:]
                    yield from part[self._show_the_same(part, other, b)].tolist()
                    left -= len(part)
                    if left <= 0:
                        return

    def _show_the_same(self, these: Integers, other: _Prints, b: int) -> NDArray[np.bool_]:
        one = (other._pixels[b] - other._mean[b]) / other._deviation[b]
        products = self._pixels[these].astype(np.float32) @ one
        correlation = products / (SIDE * SIDE * self._deviation[these])
        tint = np.abs(self._tints[these].astype(np.int16) - other._tints[b]).max(axis=1)
        return np.asarray((correlation > _LEAST_CORRELATION) & (2 * tint <= _MOST_TINT))
