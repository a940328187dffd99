"""Reading annotation files: one clear error for each way in which they can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError

_ADVICE = "Check the path; the roots of datasets lie under $DETECTRON2_DATASETS"
_MAX_SHOWN = 80
_KINDS = {
    dict: "an object {...}",
    list: "a list [...]",
    str: "a text",
    int: "a whole number",
}


def existing_folder(path: str | Path, what: str) -> Path:
    """``path`` as a Path; an error that says what to do unless it is a folder."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    state = "is a file" if folder.exists() else "does not exist"
    raise DatasetError(f"{what} {folder} {state}; expected a folder. {_ADVICE}")


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` as a Path; an error that says what to do unless it is a file."""
    file = Path(path)
    if file.is_file():
        return file
    state = "is a folder" if file.is_dir() else "does not exist"
    raise DatasetError(f"{what} {file} {state}; expected a file. {_ADVICE}")


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise DatasetError(
            f"{path} is not UTF-8 text (byte {e.start}); expected annotations, saved as UTF-8"
        ) from e
    except OSError as e:
        raise DatasetError(f"{path} cannot be read: {e.strerror or e}") from e


def read_json(path: Path) -> Any:
    """The content of a json file. DatasetError names line, column and text of a syntax error."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        line = e.doc.split("\n")[e.lineno - 1]
        shown = clip(
            line.strip() if len(line) < _MAX_SHOWN else line[max(0, e.colno - 40) :].strip()
        )
        raise DatasetError(
            f"{path} is not valid json: line {e.lineno}, column {e.colno}: {e.msg}: {shown!r}. "
            "Correct that line, or export the annotations again"
        ) from e
    except (RecursionError, ValueError) as e:  # nested too deep; a number of over 4,300 digits
        raise DatasetError(f"{path} is not a usable json file: {e}") from e


def clip(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def need(record: Any, key: str, kind: type, source: str, place: str) -> Any:
    """``record[key]``, which has to be of type ``kind``; an error that names the place otherwise.

    Whole numbers may be written 640.0; a truth value is no number.
    """
    if not isinstance(record, dict):
        raise wrong_type(record, dict, source, place)
    if key not in record:
        raise DatasetError(f"{source}: {place} has no {key!r}; expected {_KINDS[kind]}")
    value = record[key]
    if type(value) is kind:
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    raise wrong_type(value, kind, source, f"{place}.{key}" if place else key)


def wrong_type(value: Any, kind: type, source: str, place: str) -> DatasetError:
    return DatasetError(f"{source}: {place} is {clip(repr(value))}; expected {_KINDS[kind]}")


def wrong_kind(data: Any, source: str, expected: str) -> DatasetError:
    """The error for a json file of another kind than the loader reads."""
    return DatasetError(f"{source} is not {expected}: it looks like {describe(data)}")


def describe(data: Any) -> str:
    """What kind of annotation file ``data`` comes from, and the format name to use for it."""
    if isinstance(data, list):
        if data and isinstance(data[0], dict) and {"image_id", "category_id"} <= data[0].keys():
            return "a COCO results file, which holds predictions and no ground truth"
        return f"a list of {len(data)} items"
    if not isinstance(data, dict):
        return f"{clip(repr(data))}"
    if isinstance(data.get("images"), list) and "annotations" in data:
        return "a COCO json (format: coco)"
    if "_via_img_metadata" in data or any(
        isinstance(value, dict) and "regions" in value for value in data.values()
    ):
        return "a VIA json (format: via)"
    if isinstance(data.get("shapes"), list):
        return "a labelme json (format: labelme, whose annotations are a folder of such files)"
    if {"project", "metadata", "view"} <= data.keys():
        return "a VIA 3 project, which is not supported: export its annotations as COCO json"
    return f"an object with the keys {clip(', '.join(map(str, data)) or '(none)')}"


def number(value: Any) -> float:
    """``value`` as a float, NaN where it is no number: cleaning counts what is not finite."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan
