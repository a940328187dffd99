"""What is known of a model beside its detections, from the files that an evaluation leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError

SETTINGS_FILE = "settings.json"
PROPOSALS_FILE = "proposals.json"


@dataclass(frozen=True)
class Facts:
    """Settings of an evaluation; None, or empty, where they are not known.

    Attributes:
        score_threshold, nms_threshold: 0 to 1.
        detections_per_image: the most detections an image may have.
        min_size_test: the shorter side of an image as the model sees it, in pixels.
        untrained: parts of the model whose weights are fresh from their initialisation.
        recall: "100" or "1000" proposals -> "all" or a size -> share of the objects that have a
            proposal of IoU 0.5; None where there is no such object.
    """

    score_threshold: float | None = None
    nms_threshold: float | None = None
    detections_per_image: int | None = None
    min_size_test: int | None = None
    untrained: tuple[str, ...] = ()
    recall: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def missing_proposals(self, size: str = "all") -> float:
        """The share of objects without any proposal; 0 where that is not known."""
        recall = self.recall.get("1000", {}).get(size)
        return 0.0 if recall is None else 1 - recall


def read_facts(folder: Path) -> Facts:
    """What ``settings.json`` and ``proposals.json`` in ``folder`` say; a missing file says nothing.

    Raises:
        TransferError: a file is damaged.
    """
    settings, proposals = (_read(folder / name) for name in (SETTINGS_FILE, PROPOSALS_FILE))
    return Facts(
        score_threshold=settings.get("score_threshold"),
        nms_threshold=settings.get("nms_threshold"),
        detections_per_image=settings.get("detections_per_image"),
        min_size_test=settings.get("min_size_test"),
        untrained=tuple(settings.get("untrained", ())),
        recall=proposals.get("recall", {}),
    )


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
