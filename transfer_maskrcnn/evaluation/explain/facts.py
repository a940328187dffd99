"""What is known of a model beside its detections, from the files that an evaluation leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError

SETTINGS_FILE = "settings.json"
PROPOSALS_FILE = "proposals.json"
EVALUATION_FILE = "evaluation.json"

_NUMBERS = (
    "score_threshold",
    "nms_threshold",
    "detections_per_image",
    "min_size_test",
    "rpn_pre_nms_topk",
    "rpn_post_nms_topk",
    "rpn_nms_threshold",
    "rpn_levels",
)
#: points of AP50 by which the same evaluation, computed twice, may differ
_SAME_AP = 0.05

Shares = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Facts:
    """Settings of an evaluation; None, or empty, where they are not known.

    Attributes:
        score_threshold, nms_threshold, rpn_nms_threshold: 0 to 1.
        detections_per_image: the most detections an image may have.
        min_size_test: the shorter side of an image as the model sees it, in pixels.
        min_size_train: the same in training: all values that it may have.
        rpn_pre_nms_topk: boxes of each of ``rpn_levels`` feature maps that reach the RPN's NMS.
        rpn_post_nms_topk: boxes of an image that leave it.
        untrained: parts of the model whose weights are fresh from their initialisation.
        recall: "100" or "1000" proposals -> "all" or a size -> share of the objects that have a
            proposal of IoU 0.5; None where there is no such object.
        proposed_objects: "all" or a size -> number of objects that these are shares of.
        proposals: "median" and "most" proposals an image, up to 1000.
        evaluated: task -> "AP" and "AP50" as the evaluation itself gives them, 0 to 100.
    """

    score_threshold: float | None = None
    nms_threshold: float | None = None
    detections_per_image: int | None = None
    min_size_test: int | None = None
    min_size_train: tuple[int, ...] = ()
    rpn_pre_nms_topk: int | None = None
    rpn_post_nms_topk: int | None = None
    rpn_nms_threshold: float | None = None
    rpn_levels: int | None = None
    untrained: tuple[str, ...] = ()
    recall: Shares = field(default_factory=dict)
    proposed_objects: Mapping[str, int] = field(default_factory=dict)
    proposals: Mapping[str, float] = field(default_factory=dict)
    evaluated: Shares = field(default_factory=dict)

    def missing_proposals(self) -> float:
        """The share of objects without any proposal; 0 where that is not known."""
        recall = self.recall.get("1000", {}).get("all")
        return 0.0 if recall is None else 1 - recall

    def ap_of(self, task: str, ap50: float) -> float | None:
        """The evaluation's own AP; None where it is not known, or its AP50 is another."""
        known = self.evaluated.get(task, {})
        ap, same = known.get("AP"), known.get("AP50")
        agrees = ap is not None and same is not None and abs(same - ap50) <= _SAME_AP
        return ap if agrees else None


def read_facts(folder: Path) -> Facts:
    """What the files of an evaluation say; a missing file says nothing.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``, with ``settings.json`` and ``proposals.json``;
            ``evaluation.json`` is in OUTPUT_DIR.

    Raises:
        TransferError: a file is damaged.
    """
    settings_file, proposals_file = folder / SETTINGS_FILE, folder / PROPOSALS_FILE
    settings, proposals = _read(settings_file), _read(proposals_file)
    numbers = _numbers(settings_file, {k: v for k, v in settings.items() if k in _NUMBERS})
    recall = _table(proposals_file, "recall", proposals.get("recall", {}))
    evaluation_file = folder.parent.parent / EVALUATION_FILE
    evaluated = _table(evaluation_file, folder.name, _read(evaluation_file).get(folder.name, {}))
    return Facts(
        **numbers,
        min_size_train=tuple(_list(settings_file, settings, "min_size_train", int)),
        untrained=tuple(_list(settings_file, settings, "untrained", str)),
        recall=recall,
        proposed_objects=_row(proposals_file, "objects", proposals.get("objects", {})),
        proposals=_row(proposals_file, "proposals", proposals.get("proposals", {})),
        evaluated=evaluated,
    )


def _table(path: Path, key: str, value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise _wrong(path, key, value, "an object of objects")
    return {name: _row(path, f"{key}.{name}", row) for name, row in value.items()}


def _row(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, key, value, "an object of numbers")
    return _numbers(path, value)


def _numbers(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        number = isinstance(value, (int, float)) and math.isfinite(value)
        if value is not None and not number:
            raise _wrong(path, key, value, "a number")
    return values


def _list(path: Path, settings: dict[str, Any], key: str, kind: type) -> list[Any]:
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise _wrong(path, key, value, f"a list of {kind.__name__}")
    return value


def _wrong(path: Path, key: str, value: Any, expected: str) -> TransferError:
    return TransferError(f"{path}: {key} is {value!r}, expected {expected}; evaluate again")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TransferError(f"{path} cannot be read as JSON ({error}); evaluate again") from error
    if not isinstance(content, dict):
        raise TransferError(f"{path}: expected a JSON object; evaluate again")
    return content
