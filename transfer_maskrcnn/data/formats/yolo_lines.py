"""What the numbers of YOLO label files are: outlines, and what tools write beside or instead.

A line is a class number, then x y of each point in fractions of the image. There are also boxes (x
y width height, or four corners), boxes with key points (pose labels), a confidence behind the
outline (predictions) or before it, the number of an instance before it or of a track behind, and
pixels instead of fractions. One line may mean several of these: only what fits all lines of a set
is taken for granted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .base import RawInstance, Reason
from .files import probe_images
from .masks import TOLERANCE, polygons_area, polygons_to_rle, rle_area

_BOX = 4  # numbers of a line that is a box
_FRACTION = 2.0  # what is larger is no fraction, however far a stroke went beyond the image
_NEARLY_ALL = 0.9
_FILLED = 0.5  # of some image: pixels that all stay below are of another size, or percent
_FACTOR = 2.0  # by which the number that is no coordinate is farther off
_SLACK = 0.02  # of the image, by which a key point may be outside its box; of a box, by a corner
_FEW = 4  # outlines that may all be turned boxes by chance
_CANVAS = 256  # pixels, of an outline whose loops are looked at


def read_numbers(instances: Sequence[RawInstance], key_points: Any = None) -> None:
    """Make outlines of the lines of a set, or say why they are none.

    Args:
        instances: of each line; ``polygons`` is one list, of all numbers behind the class. Those
            with a ``problem`` are left alone.
        key_points: ``kpt_shape`` of the data.yaml, [points, numbers of each], where it has one.
    """
    lines = [instance for instance in instances if not instance.problem]
    poses = _poses([i.polygons[0] for i in lines], key_points)
    for instance, is_pose in zip(lines, poses, strict=True):
        instance.problem = Reason.KEY_POINTS if is_pose else None
    lines = [i for i in lines if not i.problem and len(i.polygons[0]) > _BOX]
    before, behind, repairs = _more_than_points([i.polygons[0] for i in lines])
    for instance in lines:
        instance.polygons[0] = instance.polygons[0][before : -behind or None]
        instance.repairs += repairs
    for instance in instances:
        count = len(instance.polygons[0]) if not instance.problem else 0
        if count % 2:
            instance.problem = Reason.ODD_COUNT
        elif count == _BOX:
            instance.problem = Reason.NO_MASK
    lines = [i for i in lines if not i.problem]
    _read_units(lines)
    turned = [_is_turned_box(i.polygons[0]) for i in lines]
    are_boxes = (
        len(lines) >= _FEW and None not in turned and 2 * sum(map(bool, turned)) > len(turned)
    )
    for instance in lines if are_boxes else ():
        instance.doubts.append(Reason.TURNED_BOX)


def _poses(lines: Sequence[Sequence[float]], key_points: Any) -> list[bool]:
    """Which lines are a box and its key points, perhaps with a confidence behind them."""
    if isinstance(key_points, list) and [type(n) for n in key_points] == [int, int]:
        length = _BOX + key_points[0] * key_points[1]
        return [len(line) in (length, length + 1) for line in lines]
    longer = [line for line in lines if len(line) > _BOX + 1]
    for step in (3, 2):  # with a visibility of each point, or without
        fitting = [line for line in longer if _is_pose(line, step)]
        # The small outline of one object fits, too; but its lines do not cross.
        sure = [li for li in fitting if (step == 3 and _whole(li[6::3])) or _crosses(li)]
        if sure and min(len(fitting) / _NEARLY_ALL, 3 * len(sure)) >= len(longer):
            return [len(line) > _BOX + 1 for line in lines]
    return [False for _ in lines]


def _is_pose(line: Sequence[float], step: int) -> bool:
    """Whether a line may be a box within the image, and points of ``step`` numbers within it."""
    x, y, width, height = line[:_BOX]
    seen = line[6::3] if step == 3 else [1.0] * len(line)
    within = (
        abs(px - x) <= width / 2 + _SLACK and abs(py - y) <= height / 2 + _SLACK
        for px, py, is_seen in zip(line[4::step], line[5::step], seen, strict=False)
        if is_seen and (px or py)
    )
    return (
        (len(line) - _BOX) % step < step - 1
        and all(0 <= value <= 1 or value == 2 for value in seen)
        and all(
            side / 2 - _SLACK <= c <= 1 - side / 2 + _SLACK for c, side in ((x, width), (y, height))
        )
        and all(within)
    )


def _crosses(line: Sequence[float]) -> bool:
    """Whether the outline through pairs of numbers crosses itself: its loops count otherwise."""
    points = np.reshape(line[: len(line) // 2 * 2], (-1, 2))
    points = (points - points.min(axis=0)) * (_CANVAS / np.ptp(points, axis=0).clip(min=1e-9))
    outline, area = [points.ravel().tolist()], polygons_area([points.ravel()])
    return abs(rle_area(polygons_to_rle(outline, _CANVAS, _CANVAS)) - area) > 0.1 * area


def _more_than_points(lines: Sequence[Sequence[float]]) -> tuple[int, int, list[Reason]]:
    """How many numbers of each line come before, and behind, its points; and what these are."""
    odd = {len(line) % 2 for line in lines}
    last = [line[-1] for line in lines]
    # A line's last y of 1 is no track's number where other points reach down to it.
    above = [line for line in lines if _off(line[-1], line[1:-2:2]) > _SLACK]
    tracks = odd == {0} and _whole(last) and all(max(line[:-1]) <= 1 for line in lines)
    if tracks and (max(last) > 1 or 2 * len(above) > len(lines)):
        return 0, 2, [Reason.CONFIDENCE, Reason.INSTANCE_ID]  # as Ultralytics writes tracks
    outlines = [line for line in lines if len(line) > _BOX + 1]
    if odd != {1} or not outlines:
        return 0, int(odd == {1}), []  # a box with a confidence is still a box
    # Either the first number or the last one belongs to the numbers between them, every second.
    off = [sum(_off(line[end], line[2:-1:2]) for line in outlines) for end in (0, -1)]
    if max(off) < _FACTOR * min(off) or not max(off):
        return 0, 0, []
    is_first = off[0] > off[1]
    values = [line[0] for line in lines] if is_first else last
    is_number = _whole(values) and (is_first or max(values) > 1)
    if not (is_number or all(0 <= value <= 1 for value in values)):
        return 0, 0, []
    kind = Reason.INSTANCE_ID if is_number else Reason.CONFIDENCE
    return int(is_first), int(not is_first), [kind]


def _off(value: float, others: Sequence[float]) -> float:
    """How far a number is from the range of others."""
    return max(0.0, min(others) - value, value - max(others))


def _is_turned_box(outline: Sequence[float]) -> bool | None:
    """Whether a box of four corners, opposite to each other, is turned; None for other outlines."""
    if len(outline) != 8:
        return None
    a, b, c, d = corners = np.reshape(outline, (4, 2))
    slack = _SLACK * np.ptp(corners, axis=0)
    if (np.abs(a + c - b - d) > slack).any():
        return None
    return bool((np.minimum(np.abs(a - b), np.abs(b - c)) > slack).all())


def _whole(values: Iterable[float]) -> bool:
    return all(value.is_integer() for value in values)


def _read_units(instances: Sequence[RawInstance]) -> None:
    """Take outlines for pixels where nearly all of them are, and fit their images."""
    largest = [max(instance.polygons[0]) for instance in instances]
    large = [i for i, value in zip(instances, largest, strict=True) if value > _FRACTION]
    are_pixels = len(large) >= max(1, _NEARLY_ALL * len(instances)) and _fit(large)
    for instance, value in zip(instances, largest, strict=True):
        if (value > _FRACTION) != are_pixels:
            instance.problem = Reason.OTHER_UNIT
            instance.place = instance.place._replace(note=f"coordinates up to {value:g}")
        elif are_pixels:
            instance.relative = False
            instance.repairs.append(Reason.PIXELS)


def _fit(instances: Sequence[RawInstance]) -> bool:
    """Whether outlines are inside their images, and do not all stay in a small part of them."""
    files = list(dict.fromkeys(instance.place.image for instance in instances))
    probes = dict(zip(files, probe_images(files), strict=True))
    most = 0.0
    for instance in instances:
        numbers, (height, width) = instance.polygons[0], probes[instance.place.image].size
        if not width:  # an image that cannot be read is left out anyway
            continue
        x, y = max(numbers[::2]), max(numbers[1::2])
        if x > width + TOLERANCE or y > height + TOLERANCE:
            return False
        most = max(most, x / width, y / height)
    return most >= _FILLED


def finite(texts: Sequence[str]) -> list[float] | None:
    """The numbers that texts are; None where one is something else."""
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
