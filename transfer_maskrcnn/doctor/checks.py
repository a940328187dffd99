"""What is odd about whole datasets: classes, images that are there twice, sizes, limits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from transfer_maskrcnn.doctor.anchors import MATCH_IOU, Settings, reach, suggest_sizes
from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.doctor.images import THUMB, ImageFacts
from transfer_maskrcnn.doctor.subject import Figures, Loaded

_NUMBERED = re.compile(r"(.*\D)[_\- #(]?(\d+)\)?")
_FEWEST_NUMBERED = 3  # of one stem: "type1" and "type2" may well be classes
_FEW_INSTANCES = 10
_IMBALANCE = 10.0  # as fitted configs set DATALOADER.REPEAT_IMBALANCE
# Of the 63 bits of a hash; recompression and resizing flip a few, other pictures about half.
_MOST_BITS = 6
_LEAST_CORRELATION = 0.985
_LEAST_CONTRAST = 3.0  # standard deviation in grey levels: below it, all pictures look alike
_ROWS = 512
_LARGE_FACTOR = 3.0  # an image this many times larger than the input loses most of its detail
_SMALL_SIDE = 16  # pixels of the input, below which objects are hard to find
# Of instances, out of the anchors' reach: COCO itself has 10 to 15 % there with its own anchors, so
# it is worth a word where other sizes would bring back a good part, or where it is very many.
_LEAST_SHARE, _LARGE_SHARE, _WORTHWHILE = 0.05, 0.25, 2 / 3
_MOST_PLACES = 1_000

Floats = NDArray[np.float64]
Counts = Mapping[str, int]


def look_at_classes(loaded: Loaded) -> Iterator[Finding]:
    """Names that look wrong, classes that are empty, rare or overwhelming."""
    counts = loaded.class_counts()
    present = {name: count for name, count in counts.items() if count}
    yield from _numbered(loaded.name, counts)
    pairs = [(a, b) for a, b in combinations(counts, 2) if _differ_by_little(a, b)]
    yield from _similar(loaded.name, pairs, counts, counts)
    background = [name for name in counts if name.strip("_ ").casefold() in ("background", "bg")]
    yield from _named("background_class", loaded.name, background, counts)
    if not present:
        yield finding("nothing_to_learn", loaded.name, [_whole(loaded)])
    elif not loaded.subject.is_validation:
        unused = [name for name in counts if name not in present]
        yield from _named("class_unused", loaded.name, unused, counts)
        few = [name for name, count in present.items() if count < _FEW_INSTANCES]
        yield from _named("few_examples", loaded.name, few, counts, least=_FEW_INSTANCES)
        most, fewest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        ratio = present[most] / present[fewest]
        if ratio > _IMBALANCE:
            places = [_class(name, counts) for name in (most, fewest)]
            values = {"most": most, "fewest": fewest}
            yield finding("imbalance", loaded.name, places, int(ratio), **values)


def compare_classes(train: Loaded, validation: Loaded) -> Iterator[Finding]:
    """Classes that only one of two sets has."""
    if train.dataset.classes != validation.dataset.classes:
        names, others = (list(loaded.dataset.classes) for loaded in (train, validation))
        values: Figures = {"other": validation.name, "names": names, "others": others}
        yield finding("classes_differ", train.name, [_whole(train)], **values)
    learnt, scored = train.class_counts(), validation.class_counts()
    missing = [name for name, count in learnt.items() if count and not scored.get(name)]
    unknown = [name for name, count in scored.items() if count and not learnt.get(name)]
    slips = [(a, b) for a in missing for b in unknown if _differ_by_little(a, b)]
    yield from _similar(validation.name, slips, learnt, scored)
    missing = [name for name in missing if all(name != a for a, _ in slips)]
    unknown = [name for name in unknown if all(name != b for _, b in slips)]
    yield from _named("class_not_in_val", validation.name, missing, learnt)
    yield from _named("class_not_in_train", train.name, unknown, scored, other=validation.name)


def _whole(loaded: Loaded) -> Place:
    return Place(loaded.subject.annotations, "" if loaded.subject.annotations else loaded.name)


def _class(name: str, counts: Counts) -> Place:
    return Place(classes=(name,), seen={"instances": counts[name]})


def _named(
    kind: str, dataset: str, names: Sequence[str], counts: Counts, **values: Any
) -> Iterator[Finding]:
    if names:
        places = [_class(name, counts) for name in names]
        yield finding(kind, dataset, places, names=list(names), **values)


def _numbered(dataset: str, counts: Counts) -> Iterator[Finding]:
    stems: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        match = _NUMBERED.fullmatch(name)
        if match:
            stems[match.group(1).rstrip("_- #(").lower()].append(name)
    suspicious = {stem: names for stem, names in stems.items() if len(names) >= _FEWEST_NUMBERED}
    if suspicious:
        names = [name for group in suspicious.values() for name in group]
        stem, (one, another, *_) = next(iter(suspicious.items()))
        example = {"stem": stem, "one": one, "another": another}
        yield from _named("instance_numbers", dataset, names, counts, **example)


def _similar(
    dataset: str, pairs: Sequence[tuple[str, str]], counts: Counts, others: Counts
) -> Iterator[Finding]:
    if pairs:
        places = [
            Place(classes=(a, b), seen={"one": counts[a], "other": others[b]}) for a, b in pairs
        ]
        yield finding("similar_names", dataset, places, first=pairs[0][0], second=pairs[0][1])


def _differ_by_little(a: str, b: str) -> bool:
    """By case, spaces, hyphens, a plural s, or one slip of the pen in a word of five letters."""
    plain = [re.sub(r"[\s_\-.]+", "", name).casefold() for name in (a, b)]
    short, long = sorted(plain, key=len)
    if short == long or long in (short + "s", short + "es"):
        return True
    if re.search(r"\d", short + long):
        return False  # "type 1" and "type 2" differ by what matters
    return len(short) >= 5 and _one_edit(short, long)


def _one_edit(short: str, long: str) -> bool:
    """Whether one letter was changed, added or swapped with its neighbour."""
    if len(long) - len(short) > 1:
        return False
    pairs = enumerate(zip(short, long, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), len(short))
    a, b = short[start:], long[start:]
    if len(short) < len(long):
        return a == b[1:]
    return a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def same_images(
    of: tuple[Loaded, Sequence[ImageFacts]], among: tuple[Loaded, Sequence[ImageFacts]]
) -> Iterator[Finding]:
    """Images of ``of`` that ``among`` has, too; if these are one, that an earlier one copies."""
    (loaded, facts), (other, others) = of, among
    within = loaded is other
    places: dict[int, Place] = {}
    for a, b, exact in find_pairs(others, facts):
        if b not in places and (a < b or not within):
            file, twin = (d.dataset.dicts[i]["file_name"] for d, i in ((loaded, b), (other, a)))
            seen = {"same_file" if exact else "looks_like": twin}
            places[b] = Place(file, image=file, seen=seen)
    if places:
        kind = "same_image_in_set" if within else "same_image_across"
        yield finding(kind, loaded.name, places.values())


def find_pairs(
    one: Sequence[ImageFacts], other: Sequence[ImageFacts]
) -> list[tuple[int, int, bool]]:
    """Images that are equal byte for byte, or show the same at another size or compression.

    A perceptual hash (the signs of the low frequencies of a 32 x 32 cosine transform) proposes
    pairs, and the correlation of the thumbnails decides. A flipped or cropped copy is not found.

    Returns:
        (image of ``one``, image of ``other``, whether the files are equal).
    """
    thumbs, others = _thumbs(one), _thumbs(other)
    hashes, other_hashes = _hashes(thumbs), _hashes(others)
    digests = {fact.digest: a for a, fact in reversed(list(enumerate(one))) if fact.digest}
    exact = {(digests[f.digest], b): True for b, f in enumerate(other) if f.digest in digests}
    found = dict(exact)
    for start in range(0, len(hashes), _ROWS):
        rows = hashes[start : start + _ROWS]
        # (R, 63) x (63, M) of +1 and -1: the number of equal signs less the number of others
        alike = rows @ other_hashes.T >= 63 - 2 * _MOST_BITS
        for a, b in np.add(np.argwhere(alike), (start, 0)).tolist():
            if (a, b) not in exact and (thumbs[a] * others[b]).mean() > _LEAST_CORRELATION:
                found[a, b] = False
    return [(a, b, is_exact) for (a, b), is_exact in found.items()]


def _thumbs(facts: Sequence[ImageFacts]) -> NDArray[np.float32]:
    """(N, 32, 32), of mean 0 and deviation 1; zeros where there is none, or no contrast."""
    raw = b"".join(fact.thumb or bytes(THUMB * THUMB) for fact in facts)
    thumbs = np.frombuffer(raw, np.uint8).reshape(-1, THUMB, THUMB).astype(np.float32)
    thumbs -= thumbs.mean(axis=(1, 2), keepdims=True)
    deviation = thumbs.std(axis=(1, 2), keepdims=True)
    return np.where(deviation < _LEAST_CONTRAST, 0, thumbs / np.maximum(deviation, 1e-9))


def _hashes(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 63) of +1 and -1: is a low frequency above their median? 0 without contrast."""
    low = np.array([cv2.dct(thumb)[:8, :8].reshape(-1)[1:] for thumb in thumbs]).reshape(-1, 63)
    signs = np.where(low > np.median(low, axis=1, keepdims=True), 1, -1)
    contrast = (thumbs != 0).reshape(-1, THUMB**2).max(axis=1, initial=False)
    return np.asarray(signs * contrast[:, None], dtype=np.float32)


def look_at_scale(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    """Anchors, limits and image sizes of a config against what the dataset holds."""
    places, sizes = instance_sizes(loaded)
    scales = scales_of(loaded, settings)
    yield from _limit(loaded, settings)
    yield from _empty(loaded, settings)
    if len(sizes):
        seen = sizes * scales[[image for image, _ in places], None]
        yield from _anchors(loaded, settings, places, seen)
        yield from _large(loaded, settings, scales, places, seen)


def scales_of(loaded: Loaded, settings: Settings) -> Floats:
    """(N,): how many times larger evaluation makes each image."""
    return settings.test_scales([(r["height"], r["width"]) for r in loaded.dataset.dicts])


def instance_sizes(loaded: Loaded) -> tuple[list[tuple[int, int]], Floats]:
    """(image, annotation) of each instance that is no crowd, and (N, 2) width, height in pixels."""
    found = [
        ((i, j), np.subtract(annotation["bbox"][2:], annotation["bbox"][:2]))
        for i, record in enumerate(loaded.dataset.dicts)
        for j, annotation in enumerate(record["annotations"])
        if not annotation.get("iscrowd")
    ]
    sizes = np.array([size for _, size in found], dtype=np.float64).reshape(-1, 2)
    return [place for place, _ in found], sizes


def _anchors(
    loaded: Loaded, settings: Settings, places: Sequence[tuple[int, int]], seen: Floats
) -> Iterator[Finding]:
    arguments = (settings.anchor_sizes, settings.aspect_ratios, settings.strides)
    out = reach(seen, *arguments) < MATCH_IOU
    if loaded.subject.is_validation or not out.any():
        return
    found = suggest_sizes(seen, *arguments)
    share, best = 1 - found.share_before, 1 - found.share
    helps = best <= _WORTHWHILE * share
    if share < _LEAST_SHARE or (share < _LARGE_SHARE and not helps):
        return
    plain = [[int(s) if s == int(s) else s for s in row] for row in found.values]
    suggestion = {"sizes": plain, "left": best} if helps else {"larger_input": True}
    small = np.sqrt(seen.prod(axis=1)) < min(min(row) for row in settings.anchor_sizes)
    for kind, chosen in (("anchors_small", out & small), ("anchors_large", out & ~small)):
        rows = np.flatnonzero(chosen)[:_MOST_PLACES].tolist()
        listed = [
            loaded.place_of(image, (instance,), {"width": float(width), "height": float(height)})
            for (image, instance), (width, height) in ((places[k], seen[k]) for k in rows)
        ]
        if listed:
            values = {**suggestion, "instances": len(seen), "share": share}
            yield finding(kind, loaded.name, listed, int(chosen.sum()), **values)


def _objects(record: Mapping[str, Any]) -> int:
    return sum(not annotation.get("iscrowd") for annotation in record["annotations"])


def _limit(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    limit = settings.detections_per_image
    counts = [(_objects(record), record["file_name"]) for record in loaded.dataset.dicts]
    over = sorted(((n, file) for n, file in counts if n > limit), reverse=True)
    if over:
        most = over[0][0]
        places = [Place(file, image=file, seen={"objects": n}) for n, file in over]
        # a quarter more, in fifties
        values = {"limit": limit, "most": most, "suggestion": -(-most * 5 // 4 // 50) * 50}
        yield finding("over_limit", loaded.name, places, **values)


def _empty(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    files = [record["file_name"] for record in loaded.dataset.dicts if not _objects(record)]
    case = "left_out" if settings.filter_empty else "background"
    case = "validation" if loaded.subject.is_validation else case
    if files:
        places = [Place(file, image=file) for file in files]
        yield finding("empty_images", loaded.name, places, **{case: True})


def _large(
    loaded: Loaded,
    settings: Settings,
    scales: Floats,
    places: Sequence[tuple[int, int]],
    seen: Floats,
) -> Iterator[Finding]:
    large = np.flatnonzero(scales < 1 / _LARGE_FACTOR)
    small = np.sqrt(seen.prod(axis=1)) < _SMALL_SIDE
    within = np.isin([image for image, _ in places], large)
    if not (small & within).any():
        return
    listed = []
    for record in (loaded.dataset.dicts[int(i)] for i in large):
        size = {"width": record["width"], "height": record["height"]}
        listed.append(Place(record["file_name"], image=record["file_name"], seen=size))
    values: Figures = {
        "factor": _LARGE_FACTOR,
        "side": _SMALL_SIDE,
        "low": settings.min_size_test,
        "high": settings.max_size_test,
        "tiny": int((small & within).sum()),
        "instances": int(within.sum()),
    }
    yield finding("image_large", loaded.name, listed, **values)
