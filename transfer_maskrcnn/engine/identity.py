"""Which file a run began with: known by its content, so that a moved one is the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from detectron2.utils.file_io import PathManager

from transfer_maskrcnn.files import file_digest

_DIGEST = "digest"


def weights_digest(weights: str) -> str:
    """SHA-256 of the file that ``MODEL.WEIGHTS`` names; "" where it cannot be read."""
    try:
        return file_digest(PathManager.get_local_path(weights.partition("?")[0]))
    except (OSError, ValueError, AssertionError):  # what fvcore's handlers raise
        return ""


def began_with(metadata: Mapping[str, Any] | None, weights: str) -> bool:
    """Whether the run of a checkpoint's ``metadata`` began with the file ``weights``.

    It is the same under another path; at the same path it is, too, when it is gone.
    """
    transfer = (metadata or {}).get("transfer") or {}
    source = transfer.get("source")
    if not source or not weights:
        return False
    if source == weights or os.path.realpath(source) == os.path.realpath(weights):
        return True
    digest = transfer.get(_DIGEST)
    return bool(digest) and weights_digest(weights) == digest


def with_digest(transfer: Mapping[str, Any]) -> dict[str, Any]:
    """The transfer's part of a metadata, which then tells its source from any other file."""
    return {**transfer, _DIGEST: weights_digest(transfer["source"])}


def moved(metadata: Mapping[str, Any] | None, weights: str) -> dict[str, Any] | None:
    """The transfer's part of ``metadata``, with the path that its source has now."""
    transfer = (metadata or {}).get("transfer")
    if transfer and began_with(metadata, weights):
        return {**transfer, "source": weights}
    return transfer
