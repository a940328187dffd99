"""Reading JSON files that another program wrote, and the numbers in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError


def read_json(path: Path) -> Any:
    """The content of ``path``; None where there is no such file.

    Raises:
        TransferError: it is damaged, or may not be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TransferError(
            f"{path} cannot be read as JSON ({error}); repeat the run that wrote it"
        ) from error


def number(value: Any) -> float | None:
    """A finite number; None for null, NaN and whatever else is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def numbers(content: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The values of an object as numbers, None where undefined."""
    return {key: number(value) for key, value in (content or {}).items()}


def metrics(content: Mapping[str, Any] | None) -> dict[str, float | None]:
    """As :func:`numbers`; COCO's -1 is undefined, too."""
    return {k: None if v is not None and v < 0 else v for k, v in numbers(content).items()}


def pair(value: Any) -> tuple[float, float] | None:
    """The bounds of an interval; None where either is undefined."""
    low, high = (number(bound) for bound in value or (None, None))
    return None if low is None or high is None else (low, high)
