"""How large images enter the network: as the base affords, and as the objects need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from transfer_maskrcnn.autoconfig.lines import Line, percent
from transfer_maskrcnn.autoconfig.measures import Measures
from transfer_maskrcnn.doctor.anchors import Settings

# Two cells of the finest feature map, of stride 4: what is smaller is hardly seen.
TINY = 8
TINY_SHARE = 0.1
# COCO's limit of "small" objects, which detectors find much less often.
SMALL = 32
# An image that is enlarged further only repeats its pixels.
MOST_ENLARGED = 2
STEP = 32


def fit_input(measures: Measures, base: Settings) -> tuple[Settings, list[Line]]:
    """Input sizes for a dataset.

    The base's short side, but not more than the images' own (of the median image), or so much more
    that half of the objects become 32 pixels across, at most twice. Where more than a tenth of the
    objects would then be below 8 pixels: as much larger as mends that, up to twice the images' own
    size and to as many pixels as the base's largest image has (``min_size_test`` times
    ``max_size_test``).

    Returns:
        ``base`` with the new sizes, and the lines that state them.
    """
    if base.min_size_test == 0:  # images as they are: the base's explicit wish
        return base, [Line("INPUT.MIN_SIZE_TEST", 0, "The base's: images keep their own size.")]
    own_side, own_long = _own_sides(measures)
    across = np.median(measures.across_at(np.ones(measures.images)))
    enlarge = float(np.clip(SMALL / max(across, 1.0), 1, MOST_ENLARGED))
    start = min(base.min_size_test, _up(own_side * enlarge))
    affords = (base.min_size_test * base.max_size_test * own_side / own_long) ** 0.5
    limit = min(_up(own_side * MOST_ENLARGED), int(affords) // STEP * STEP)
    sides = [start, *range(_up(start + 1), limit + 1, STEP)]
    fitted = [_resized(base, side) for side in sides]
    chosen = next((s for s in fitted if tiny_share(measures, s) <= TINY_SHARE), fitted[-1])
    return chosen, _lines(measures, base, chosen)


def _own_sides(measures: Measures) -> tuple[float, float]:
    """The medians of the images' short and long sides, in pixels."""
    short, long = np.median(np.sort(measures.images_hw, axis=1), axis=0)
    return float(short), float(long)


def _up(side: float) -> int:
    return int(np.ceil(side / STEP)) * STEP


def tiny_share(measures: Measures, settings: Settings) -> float:
    """The share of objects below 8 pixels at the test size."""
    across = measures.across_at(settings.test_scales(measures.images_hw))
    return float((across < TINY).mean())


def _resized(base: Settings, side: int) -> Settings:
    """``base`` for another short side in evaluation; a long side is never allowed less for it."""
    if side == base.min_size_test:
        return base
    ratio = side / base.min_size_test
    long_ratio = min(ratio, 1.0)
    sizes = {max(STEP // 2, round(size * ratio / 16) * 16) for size in base.min_size_train}
    return replace(
        base,
        min_size_test=side,
        max_size_test=max(side, round(base.max_size_test * long_ratio)),
        min_size_train=tuple(sorted(sizes)),
        max_size_train=max(max(sizes), round(base.max_size_train * long_ratio)),
    )


def _lines(measures: Measures, base: Settings, chosen: Settings) -> list[Line]:
    lines = [Line("INPUT.MIN_SIZE_TEST", chosen.min_size_test, _why(measures, base, chosen))]
    if chosen == base:
        return lines
    as_base = "In proportion to the short side, as in the base"
    train = chosen.min_size_train
    if chosen.size_sampling == "range" and len(train) == 1:
        train *= 2
    return [
        *lines,
        Line("INPUT.MAX_SIZE_TEST", chosen.max_size_test, f"{as_base} ({base.max_size_test})."),
        Line(
            "INPUT.MIN_SIZE_TRAIN",
            list(train),
            f"{as_base} ({', '.join(map(str, base.min_size_train))}).",
        ),
        Line("INPUT.MAX_SIZE_TRAIN", chosen.max_size_train, f"{as_base} ({base.max_size_train})."),
    ]


def _why(measures: Measures, base: Settings, chosen: Settings) -> str:
    images = "images are {:.0f} x {:.0f} pixels (medians of the sides)".format(
        *_own_sides(measures)
    )
    tiny = tiny_share(measures, chosen)
    if chosen.min_size_test < base.min_size_test:
        enlarged = float(np.median(chosen.test_scales(measures.images_hw)))
        why = f"Below the base's {base.min_size_test}: {images}; more would only repeat pixels."
        if enlarged > 1.2:
            why += f" Enlarged {enlarged:.1f} times, because half of the objects are small."
    elif chosen.min_size_test > base.min_size_test:
        why = (
            f"Above the base's {base.min_size_test}, where {percent(tiny_share(measures, base))} "
            f"of the objects are below {TINY} pixels, two cells of the finest feature map; here "
            f"{percent(tiny)}. The {images}: no more than the base's largest image has."
        )
    else:
        why = f"As in the base; {images}."
    why += f" {_extent(measures, chosen)}"
    if tiny > TINY_SHARE:
        why += (
            f" {percent(tiny)} of the objects are below {TINY} pixels, and hardly seen: a base "
            "with a larger input, or images cut into tiles, would show more of them."
        )
    return why


def _extent(measures: Measures, settings: Settings) -> str:
    across = measures.across_at(settings.test_scales(measures.images_hw))
    low, high = np.quantile(across, [0.05, 0.95])
    return (
        f"At this size 90 % of the objects are {low:.0f} to {high:.0f} pixels across (square root "
        "of the box area)."
    )
