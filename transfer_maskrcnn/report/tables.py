"""Tables that both kinds of page have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer_maskrcnn.report.texts import drift, named_parts

_LEAST, _MOST = 1e-3, 1.0  # relative distances where the shades begin and end
_DARKEST = (0x7A, 0xB4, 0xDC)


@dataclass(frozen=True)
class HeatCell:
    """A number in words, and the CSS colour behind it."""

    text: str
    colour: str


@dataclass(frozen=True)
class HeatTable:
    """How far each part moved: a row a part, a column an entry of ``columns``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def drift_table(columns: Mapping[str, Mapping[str, float | None]]) -> HeatTable | None:
    """A table of ``|final - initial| / |initial|``, shaded on a logarithmic scale.

    Args:
        columns: title -> part, as named in ``drift.json`` -> distance; None where undefined.

    Returns:
        the parts in the order of the network; None where there are none.
    """
    parts = named_parts(dict.fromkeys(part for column in columns.values() for part in column))
    if not parts:
        return None
    rows = [
        (name, tuple(_heat(column.get(part)) for column in columns.values()))
        for part, name in parts.items()
    ]
    return HeatTable(tuple(columns), tuple(rows))


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _heat(value: float | None) -> HeatCell:
    if not value:
        return HeatCell(drift(value), "#ffffff")
    depth = math.log(max(value, _LEAST) / _LEAST) / math.log(_MOST / _LEAST)
    shade = [round(255 + (dark - 255) * min(depth, 1)) for dark in _DARKEST]
    return HeatCell(drift(value), "#" + "".join(f"{channel:02x}" for channel in shade))
