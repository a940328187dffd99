"""The package's face: these names, and each says what it does."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import transfer_maskrcnn

PUBLIC = [
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
OBJECTS = [name for name in PUBLIC if name != "__version__"]


def test_these_and_no_others() -> None:
    assert transfer_maskrcnn.__all__ == PUBLIC == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(transfer_maskrcnn))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        transfer_maskrcnn.load_modle  # noqa: B018


def test_a_type_checker_sees_them() -> None:
    package = Path(transfer_maskrcnn.__file__).parent
    tree = ast.parse(Path(transfer_maskrcnn.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "TYPE_CH" in ast.dump(n.test))
    places = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(places) == OBJECTS
    for name, module in places.items():
        assert getattr(transfer_maskrcnn, name).__module__ == f"transfer_maskrcnn.{module}"
    assert (package / "py.typed").read_text() == ""


def methods_of(value: type) -> list[Any]:
    """Its own public ones; what detectron2 calls in a trainer or hook is told by detectron2."""
    stock = {name for base in value.__mro__[1:] for name in vars(base)}
    return [
        method
        for name, method in vars(value).items()
        if inspect.isfunction(method) and name not in stock and not name.startswith("_")
    ]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_is_documented(name: str) -> None:
    value = getattr(transfer_maskrcnn, name)
    assert inspect.getdoc(value)
    for function in [value] if inspect.isfunction(value) else methods_of(value):
        text = inspect.getdoc(function) or ""
        assert text, function.__qualname__
        if "raise " in inspect.getsource(function):
            assert "Raises:" in text, function.__qualname__
        if len(inspect.signature(function).parameters) > 2:
            assert "Args:" in text, function.__qualname__


def test_what_is_slow_is_loaded_when_it_is_used() -> None:
    script = "import sys, transfer_maskrcnn as t; dir(t); t.ConfigError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "transfer_maskrcnn.errors" in loaded and "torch" not in loaded, done.stderr
