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

from .base import RawInstance, Reason
from .files import probe_images
from .masks import TOLERANCE

_BOX = 4  # numbers of a line that is a box
_FRACTION = 2.0  # what is larger is no fraction, however far a stroke went beyond the image
_NEARLY_ALL = 0.9
_FILLED = 0.5  # of some image: pixels that all stay below are of another size, or percent
_FACTOR = 2.0  # by which the number that is no coordinate is farther off
_SLACK = 0.02  # of the image, by which a key point may be outside its box; of a box, by a corner
_FEW = 10  # outlines that may all be boxes by chance


def read_numbers(instances: Sequence[RawInstance], key_points: Any = None) -> None:
    """Make outlines of the lines of a set, or say why they are none.

    Args:
        instances: of each line; ``polygons`` is one list, of all numbers behind the class. Those
            with a ``problem`` are left alone.
        key_points: ``kpt_shape`` of the data.yaml, [points, numbers of each], where it has one.
    """
    lines = [instance for instance in instances if not instance.problem]
    pose = _pose_length([i.polygons[0] for i in lines], key_points)
    for instance in lines:
        if len(instance.polygons[0]) == pose:
            instance.problem = Reason.KEY_POINTS
    lines = [i for i in lines if not i.problem and len(i.polygons[0]) > _BOX]
    before, behind, repairs = _more_than_points([i.polygons[0] for i in lines])
    for instance in lines:
        numbers = instance.polygons[0]
        instance.polygons = [numbers[before : len(numbers) - behind]]
        instance.repairs += repairs
    for instance in instances:
        count = len(instance.polygons[0]) if not instance.problem else 0
        if count % 2:
            instance.problem = Reason.ODD_COUNT
        elif count == _BOX:
            instance.problem = Reason.NO_MASK
    lines = [i for i in lines if not i.problem]
    _read_units(lines)
    if len(lines) >= _FEW and all(_is_box(i.polygons[0]) for i in lines):
        for instance in lines:
            instance.doubts.append(Reason.TURNED_BOX)


def _pose_length(lines: Sequence[Sequence[float]], key_points: Any) -> int:
    """How many numbers a line of a box and its key points has; 0 where there are no such lines."""
    if isinstance(key_points, list) and [type(n) for n in key_points] == [int, int]:
        return _BOX + key_points[0] * key_points[1]
    lengths = {len(line) for line in lines} - {_BOX}
    length = lengths.pop() if len(lengths) == 1 else 0
    looks_so = length > _BOX and (length - _BOX) % 3 == 0 and all(map(_is_pose, lines))
    return length if looks_so else 0


def _is_pose(line: Sequence[float]) -> bool:
    """Whether every third number is a visibility, and the points that are seen are in the box."""
    x, y, width, height = line[:_BOX]
    points = zip(line[4::3], line[5::3], line[6::3], strict=True)
    return all(
        seen == 0
        or (
            seen in (1, 2)
            and abs(px - x) <= width / 2 + _SLACK
            and abs(py - y) <= height / 2 + _SLACK
        )
        for px, py, seen in points
    )


def _more_than_points(lines: Sequence[Sequence[float]]) -> tuple[int, int, list[Reason]]:
    """How many numbers of each line come before, and behind, its points; and what these are."""
    odd = {len(line) % 2 for line in lines}
    last = [line[-1] for line in lines]
    if odd == {0} and _whole(last) and max(last) > 1 and all(max(li[:-1]) <= 1 for li in lines):
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
    if _whole(values):
        return int(is_first), int(not is_first), [Reason.INSTANCE_ID]
    if all(0 <= value <= 1 for value in values):
        return int(is_first), int(not is_first), [Reason.CONFIDENCE]
    return 0, 0, []


def _off(value: float, others: Sequence[float]) -> float:
    """How far a number is from the range of others."""
    return max(0.0, min(others) - value, value - max(others))


def _is_box(outline: Sequence[float]) -> bool:
    """Whether it has four corners, opposite to each other, at any angle and scale of x and y."""
    if len(outline) != 8:
        return False
    xs, ys = outline[::2], outline[1::2]
    return all(abs(v[0] + v[2] - v[1] - v[3]) <= _SLACK * (max(v) - min(v)) for v in (xs, ys))


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
