"""Images that are there twice: within one dataset, or in two that should share none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.doctor.image_facts import ImageFacts
from transfer_maskrcnn.doctor.subject import Loaded

# Of the 63 bits of a hash; recompression and resizing flip a few, other pictures about half.
_MOST_BITS = 6
_LEAST_CORRELATION = 0.985
_LEAST_CONTRAST = 3.0  # standard deviation in grey levels: below it, all pictures look alike
_ROWS = 512

Pair = tuple[int, int, bool]  # image of the first set, of the second, whether the files are equal


def same_in_set(loaded: Loaded, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Images of which an earlier one of the set is a copy."""
    pairs = [(a, b, exact) for a, b, exact in find_pairs(facts, facts) if a < b]
    yield from _finding("same_image_in_set", loaded, loaded, pairs)


def same_across(
    one: Loaded, facts: Sequence[ImageFacts], other: Loaded, others: Sequence[ImageFacts]
) -> Iterator[Finding]:
    """Images of ``one`` that ``other`` has, too."""
    yield from _finding("same_image_across", other, one, find_pairs(facts, others))


def _finding(kind: str, of: Loaded, among: Loaded, pairs: Sequence[Pair]) -> Iterator[Finding]:
    places, told = [], set()
    for a, b, exact in pairs:
        if b not in told:
            told.add(b)
            file, twin = of.dataset.dicts[b]["file_name"], among.dataset.dicts[a]["file_name"]
            how = "the same file as" if exact else "looks the same as"
            places.append(Place(file, note=f"{how} {twin}", image=file))
    if places:
        yield finding(kind, of.name, places)


def find_pairs(one: Sequence[ImageFacts], other: Sequence[ImageFacts]) -> list[Pair]:
    """Images that are equal byte for byte, or show the same at another size or compression.

    A perceptual hash (the signs of the low frequencies of a 32 x 32 cosine transform) proposes
    pairs, and the correlation of the thumbnails decides. A flipped or cropped copy is not found.
    """
    thumbs, others = _thumbs(one), _thumbs(other)
    hashes, other_hashes = _hashes(thumbs), _hashes(others)
    flat, other_flat = _is_flat(thumbs), _is_flat(others)
    digests = {fact.digest: a for a, fact in reversed(list(enumerate(one))) if fact.digest}
    found: list[Pair] = []
    for b, fact in enumerate(other):
        a = digests.get(fact.digest)
        if a is not None:
            found.append((a, b, True))
    exact = {(a, b) for a, b, _ in found}
    for start in range(0, len(hashes), _ROWS):
        rows = hashes[start : start + _ROWS]
        # (R, 63) x (63, M) of +1 and -1: the number of equal signs less the number of others
        alike = rows @ other_hashes.T >= rows.shape[1] - 2 * _MOST_BITS
        alike &= ~flat[start : start + _ROWS, None] & ~other_flat[None]
        for a, b in np.add(np.argwhere(alike), (start, 0)):
            if (a, b) not in exact and _correlation(thumbs[a], others[b]) > _LEAST_CORRELATION:
                found.append((int(a), int(b), False))
    return found


def _thumbs(facts: Sequence[ImageFacts]) -> NDArray[np.float32]:
    """(N, 32, 32); zeros where there is none."""
    empty = bytes(32 * 32)
    raw = b"".join(fact.thumb or empty for fact in facts)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32, 32).astype(np.float32)


def _is_flat(thumbs: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(thumbs.std(axis=(1, 2)) < _LEAST_CONTRAST)


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 63) of +1 and -1: whether each low frequency is above their median."""
    if not len(thumbs):
        return np.empty((0, 63), np.float32)
    low = np.stack([cv2.dct(thumb)[:8, :8].reshape(-1)[1:] for thumb in thumbs])
    signs = np.where(low > np.median(low, axis=1, keepdims=True), 1, -1)
    return np.asarray(signs, dtype=np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
