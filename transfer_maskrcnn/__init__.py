"""Fine-tune a pretrained Mask R-CNN on your own dataset with detectron2.

Importing this package registers the names of the built-in datasets with detectron2. It reads no
annotation file, prints nothing, and imports nothing heavy: the names are registered when
``detectron2.data`` is imported, by whomever, and what is public here is imported when first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commands.finetune import finetune
    from .config import add_transfer_config, load_config
    from .data.registry import register_catalog, register_dataset
    from .engine.trainer import TransferTrainer
    from .errors import (
        CheckpointError,
        ConfigError,
        DatasetError,
        TrainingDivergedError,
        TransferError,
        TransferPlanError,
        WeightFileError,
    )
    from .inference.load import load_model
    from .inference.model import Model
    from .inference.results import Result, Results
    from .modeling.build import build_model
    from .surgery.hook import WeightSurgeryHook, transfer_weights
    from .surgery.load import SourceWeights, load_weights
    from .surgery.plan import TransferPlan

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "Model",
    "Result",
    "Results",
    "SourceWeights",
    "TrainingDivergedError",
    "TransferError",
    "TransferPlan",
    "TransferPlanError",
    "TransferTrainer",
    "WeightFileError",
    "WeightSurgeryHook",
    "__version__",
    "add_transfer_config",
    "build_model",
    "finetune",
    "load_config",
    "load_model",
    "load_weights",
    "register_catalog",
    "register_dataset",
    "transfer_weights",
]
# The module of each public name that is not an error.
_MODULES = {
    "Model": "inference.model",
    "Result": "inference.results",
    "Results": "inference.results",
    "SourceWeights": "surgery.load",
    "TransferPlan": "surgery.plan",
    "TransferTrainer": "engine.trainer",
    "WeightSurgeryHook": "surgery.hook",
    "add_transfer_config": "config",
    "build_model": "modeling.build",
    "finetune": "commands.finetune",
    "load_config": "config",
    "load_model": "inference.load",
    "load_weights": "surgery.load",
    "register_catalog": "data.registry",
    "register_dataset": "data.registry",
    "transfer_weights": "surgery.hook",
}

_CATALOGS = "detectron2.data"
_REGISTRY = f"{__name__}.data.registry"  # registers the built-in names when it is imported


def _without_detectron2(error: object) -> ImportError:
    named = getattr(error, "name", None) or "detectron2"
    if not named.startswith("detectron2"):  # it is there, and what it needs is not
        return ImportError(
            f"detectron2 is installed, but {named} cannot be loaded ({error}). Install what is "
            "missing, or, if memory is limited (ulimit -v), allow more: torch alone maps gigabytes"
        )
    return ImportError(
        f"transfer_maskrcnn is a detectron2 project, and detectron2 cannot be imported ({error}). "
        "Install it in one of two ways:\n"
        "  from source, as detectron2 documents (needs a C++ compiler and an installed torch):\n"
        "    pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git\n"
        "  or the wheel sal-detectron2 (Linux), which needs no compiler and runs Mask R-CNN on\n"
        "  any Python; in a checkout of this project `make setup` does it, and by hand it is:\n"
        "    pip install 'transfer-maskrcnn[detectron2]'\n"
        "    pip install --no-deps --only-binary=:all: --platform any --implementation cp \\\n"
        "      --python-version 3.10 --abi none sal-detectron2==0.7.2 \\\n"
        '      --target "$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on what detectron2 does
            module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    except ImportError as error:
        raise _without_detectron2(error) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _RegisterWithCatalogs:
    """An import hook that registers the built-in names right after detectron2's catalogs exist.

    So nobody sees catalogs without them, and ``--help`` need not wait for torch.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _CATALOGS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with warnings.catch_warnings():
                    # Newer torch calls what detectron2 does when it is imported deprecated.
                    warnings.simplefilter("ignore")
                    execute(module)
                importlib.import_module(_REGISTRY)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_error: object = "there is no such module"
try:
    _found = importlib.util.find_spec("detectron2")
except ImportError as _problem:
    _found, _error = None, _problem
if _found is None:
    if os.path.basename(sys.argv[0]).startswith("transfer-maskrcnn"):  # typed by a person
        sys.exit(f"error: {_without_detectron2(_error)}")
    raise _without_detectron2(_error)
if _CATALOGS in sys.modules:
    importlib.import_module(_REGISTRY)
else:
    sys.meta_path.insert(0, _RegisterWithCatalogs())
