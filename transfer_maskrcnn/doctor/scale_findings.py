"""What does not fit the network's input, its anchors or its limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from transfer_maskrcnn.doctor.anchors import MATCH_IOU, reach, suggest_sizes
from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.doctor.settings import Settings
from transfer_maskrcnn.doctor.subject import Loaded

_LARGE_FACTOR = 3.0  # an image this many times larger than the input loses most of its detail
_SMALL_SIDE = 16  # pixels of the input, below which objects are hard to find
# Of instances, out of the anchors' reach: COCO itself has 10 to 15 % there with its own anchors, so
# it is worth a word where other sizes would bring back a good part, or where it is very many.
_LEAST_SHARE, _LARGE_SHARE, _WORTHWHILE = 0.05, 0.25, 2 / 3

Floats = NDArray[np.float64]


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
    places, sizes = [], []
    for i, record in enumerate(loaded.dataset.dicts):
        for j, annotation in enumerate(record["annotations"]):
            if not annotation.get("iscrowd"):
                mode = annotation["bbox_mode"]
                _, _, width, height = BoxMode.convert(annotation["bbox"], mode, BoxMode.XYWH_ABS)
                places.append((i, j))
                sizes.append((width, height))
    return places, np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _anchors(
    loaded: Loaded, settings: Settings, places: Sequence[tuple[int, int]], seen: Floats
) -> Iterator[Finding]:
    arguments = (settings.anchor_sizes, settings.aspect_ratios, settings.strides)
    out = reach(seen, *arguments) < MATCH_IOU
    if loaded.subject.is_validation or not out.any():
        return
    found = suggest_sizes(seen, *arguments)
    share, best = 1 - found.share_before, 1 - found.share
    if share < _LEAST_SHARE or (share < _LARGE_SHARE and best > _WORTHWHILE * share):
        return
    suggestion = "Other sizes would not help: larger input (INPUT.MIN_SIZE_TRAIN) or tiles would."
    if best <= _WORTHWHILE * share:
        sizes = (
            "[" + ", ".join(f"[{', '.join(f'{s:g}' for s in row)}]" for row in found.values) + "]"
        )
        suggestion = f'MODEL.ANCHOR_GENERATOR.SIZES "{sizes}" leaves {best:.0%} out of reach.'
    smallest = min(min(row) for row in settings.anchor_sizes)
    small = np.sqrt(seen.prod(axis=1)) < smallest
    values = {"instances": len(seen), "share": f"{share:.0%}", "suggestion": suggestion}
    for kind, chosen in (("anchors_small", out & small), ("anchors_large", out & ~small)):
        listed = [_place(loaded, places[k], seen[k]) for k in np.flatnonzero(chosen).tolist()]
        if listed:
            yield finding(kind, loaded.name, listed[:1000], len(listed), **values)


def _place(loaded: Loaded, at: tuple[int, int], size: Floats) -> Place:
    image, instance = at
    file = loaded.dataset.dicts[image]["file_name"]
    note = f"{size[0]:.0f} x {size[1]:.0f} pixels at the input size"
    return loaded.locator.place(file, loaded.place_of(image, instance), note, (instance,))


def _limit(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    limit = settings.detections_per_image
    counts = [
        (sum(not a.get("iscrowd") for a in record["annotations"]), record["file_name"])
        for record in loaded.dataset.dicts
    ]
    over = sorted(((n, file) for n, file in counts if n > limit), reverse=True)
    if over:
        most = over[0][0]
        places = [Place(file, note=f"{n} objects", image=file) for n, file in over]
        suggestion = -(-most * 5 // 4 // 50) * 50  # a quarter more, in fifties
        yield finding(
            *("over_limit", loaded.name, places), limit=limit, most=most, suggestion=suggestion
        )


def _empty(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    files = [
        record["file_name"]
        for record in loaded.dataset.dicts
        if all(a.get("iscrowd") for a in record["annotations"])
    ]
    if not files:
        return
    if loaded.subject.is_validation:
        consequence = "Whatever is detected in them counts as wrong: that is as it should be."
    elif settings.filter_empty:
        consequence = (
            "Left out of training (DATALOADER.FILTER_EMPTY_ANNOTATIONS True); False would use them "
            "as background."
        )
    else:
        consequence = "Trained on as background (DATALOADER.FILTER_EMPTY_ANNOTATIONS False)."
    places = [Place(file, image=file) for file in files]
    yield finding("empty_images", loaded.name, places, consequence=consequence)


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
    records = [loaded.dataset.dicts[int(i)] for i in large]
    listed = [
        Place(r["file_name"], note=f"{r['width']} x {r['height']} pixels", image=r["file_name"])
        for r in records
    ]
    yield finding(
        *("image_large", loaded.name, listed),
        factor=f"{_LARGE_FACTOR:g}",
        size=f"{settings.min_size_test} to {settings.max_size_test}",
        tiny=int((small & within).sum()),
        instances=int(within.sum()),
        side=_SMALL_SIDE,
        tile=settings.min_size_test,
    )
