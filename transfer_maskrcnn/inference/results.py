"""predictions.json and images.json: COCO results, written while the images come."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import atomic_path, write_json
from transfer_maskrcnn.inference.predictor import Detection

PREDICTIONS_FILE, IMAGES_FILE = "predictions.json", "images.json"
_WRITTEN = (PREDICTIONS_FILE, IMAGES_FILE, "overlays", "masks", "labelme")


class ResultFiles:
    """``COCO("images.json").loadRes("predictions.json")`` reads the two files.

    ``predictions.json`` is a list of COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y,
    width, height), ``score``, ``segmentation`` (RLE), in pixels of the image. ``images.json`` says
    what the ids mean; both count from 1, categories in the order of the model's classes.

    Both take their names when the ``with`` block ends, in whatever way, and hold the images that
    were added whole. Until then the detections are in a file beside, not in memory.
    """

    def __init__(self, folder: Path, classes: Sequence[str]):
        self._folder = folder
        self._classes = list(classes)
        self._images: list[dict[str, Any]] = []
        self._whole = 1

    def __enter__(self) -> ResultFiles:
        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_path(self._folder / PREDICTIONS_FILE))
        self._file = temporary.open("w+b")
        self._file.write(b"[")
        return self

    def add(self, image: dict[str, Any], detections: Sequence[Detection]) -> None:
        """Write the detections of one image.

        Args:
            image: its entry in ``images.json``, but for the ``id``: ``file_name``, ``height`` ...
            detections: in pixels of that image.
        """
        image_id = len(self._images) + 1
        lines = [json.dumps(coco_result(d, image_id)) for d in detections]
        if lines:
            text = ",\n".join(lines)
            comma = ",\n" if self._whole > 1 else "\n"
            self._whole += self._file.write(f"{comma}{text}".encode())
        self._images.append({"id": image_id, **image})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.seek(self._whole)  # Ctrl-C may have come in the middle of an image
        self._file.truncate()
        self._file.write(b"\n]\n")
        self._file.close()
        write_json(self._folder / IMAGES_FILE, self._about())
        self._stack.close()

    def _about(self) -> dict[str, Any]:
        categories = [{"id": i, "name": name} for i, name in enumerate(self._classes, 1)]
        return {"info": {}, "images": self._images, "annotations": [], "categories": categories}


def coco_result(detection: Detection, image_id: int) -> dict[str, Any]:
    """A detection as COCO's results have it; categories count from 1."""
    result: dict[str, Any] = {
        "image_id": image_id,
        "category_id": detection.class_index + 1,
        "bbox": list(detection.bbox),
        "score": detection.score,
    }
    if detection.segmentation is not None:
        result["segmentation"] = detection.segmentation
    return result


def check_output(folder: Path) -> None:
    """Make the folder, and see that files can be written there, before a model is loaded.

    Raises:
        ConfigError: it cannot be made or written to, or holds what was predicted before: some of
            that may have been corrected by hand, and the rest would be mixed with what is new.
    """
    earlier = [name for name in _WRITTEN if (folder / name).exists()]
    if earlier:
        raise ConfigError(
            f"--output {folder} holds {', '.join(earlier)} of an earlier prediction; name another "
            "folder, or move them away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--output {folder}: cannot write there ({error.strerror}); name a folder of yours"
        ) from None
