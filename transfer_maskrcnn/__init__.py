"""Fine-tune a pretrained Mask R-CNN on your own dataset with detectron2.

Importing this package registers the names of the built-in datasets with detectron2. It reads no
annotation file, prints nothing, and imports nothing heavy: the names are registered when
``detectron2.data`` is imported, by whomever, and what is public here is imported when first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# public name -> the module that has it
_PUBLIC = {
    "WeightSurgeryHook": "surgery.hook",
    "add_transfer_config": "config",
    "load_config": "config",
    "load_weights": "surgery.load",
    "register_catalog": "data.registry",
    "register_dataset": "data.registry",
    "transfer_weights": "surgery.hook",
}
__all__ = ["__version__", *_PUBLIC]

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
        "  or the wheel sal-detectron2, which needs no compiler and runs Mask R-CNN on any Python;"
        " in a checkout of this project:\n"
        "    make setup"
    )


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    except ImportError as error:
        raise _without_detectron2(error) from error
    return getattr(module, name)


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


try:
    _found = importlib.util.find_spec("detectron2")
except ImportError as _error:
    raise _without_detectron2(_error) from None
if _found is None:
    raise _without_detectron2("there is no such module")
if _CATALOGS in sys.modules:
    importlib.import_module(_REGISTRY)
else:
    sys.meta_path.insert(0, _RegisterWithCatalogs())
