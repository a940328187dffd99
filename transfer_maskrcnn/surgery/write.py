"""Weight files that know what they are. A file is complete or absent, never half written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.surgery.read import METADATA_KEY


def write_weights(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Writes weights and what they are, as .pth or .safetensors by the name's end.

    The .pth is a dict with ``model``, which a stock ``DetectionCheckpointer`` loads by exact names.

    Args:
        path: where to; replaced in one step.
        tensors: name -> tensor, for example ``model.state_dict()``.
        metadata: plain values, with the class names in order under ``thing_classes``.

    Raises:
        WeightFileError: another ending, or metadata that are not plain or lack ``thing_classes``.
    """
    path = Path(path)
    try:
        text = json.dumps(dict(metadata))
    except TypeError as error:
        raise WeightFileError(f"{path}: the metadata must hold plain values: {error}") from error
    if not isinstance(metadata.get("thing_classes"), (list, tuple)):
        raise WeightFileError(f"{path}: the metadata must list the class names as thing_classes.")
    if path.suffix not in (".pth", ".safetensors"):
        raise WeightFileError(f"{path}: weights are written as .pth or .safetensors.")
    plain = {name: tensor.detach() for name, tensor in tensors.items()}
    with atomic_path(path) as unfinished:
        if path.suffix == ".pth":
            torch.save({"model": plain, METADATA_KEY: json.loads(text)}, unfinished)
        else:
            # a name each, not shared memory, is what the format stores
            own = {name: tensor.cpu().clone().contiguous() for name, tensor in plain.items()}
            save_file(own, unfinished, metadata={"format": "pt", METADATA_KEY: text})
