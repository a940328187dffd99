"""Imports point downwards only. The table below is the one of the design; a new module joins it."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "transfer_maskrcnn"
NAME = "transfer_maskrcnn"

# The longest matching name decides. Base modules may be imported from everywhere.
BASE, TOP = -1, 9
LAYERS = {
    "errors": BASE,
    "files": BASE,
    "text": BASE,
    "cli": BASE,
    "table": BASE,
    "compat": BASE,
    "data.formats": 0,
    "data.export": 0,
    "surgery": 0,
    "surgery.hook": 2,
    "data": 1,
    "config": 1,
    "evaluation": 1,
    "inference": 1,
    "doctor": 1,
    "modeling": 1,
    "autoconfig": 1,
    "inference.load": 2,
    "feature_cache": 2,
    "incremental": 2,
    "engine": 2,
    "study": 3,
    "commands": 3,
    "__main__": TOP,
    "": TOP,  # the package's own __init__, which gathers the public names
}
# The `__init__` of a package that holds two layers counts as the upper one.
INIT_LAYERS = {"surgery": 2, "data": 1}

ARRAYS = {"numpy", "torch", "pycocotools"}
FILES = {"safetensors", "PIL", "cv2", "yaml"}
# What may be imported besides the standard library; a prefix of the dotted name is enough.
# Layers that are not listed may import anything.
THIRD_PARTY = {
    BASE: {"tqdm", "yaml"},
    "data.formats": ARRAYS | FILES | {"detectron2.structures"},
    "surgery": ARRAYS
    | FILES
    | {
        "detectron2.structures",
        "detectron2.checkpoint",
        "detectron2.utils.file_io",
        "iopath.common.file_io",  # the cache of detectron2's downloads
        # what is known of the model zoo's files: class names, and what they were trained with
        "detectron2.model_zoo",
        "detectron2.data.datasets",
    },
    "report": {"jinja2", "matplotlib", "contourpy", "numpy", "PIL", "pycocotools"},
}
READS_CONFIG = (
    *("config", "modeling", "autoconfig", "feature_cache", "incremental", "engine", "evaluation"),
    *("surgery.hook", "inference.load", "data.mapper", "data.loader", "study", "commands"),
)
CONFIG_NAMES = {"detectron2.config", "fvcore.common.config", "yacs"}


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".") or prefix == ""


def layer_of(module: str, is_init: bool = False) -> int | None:
    """The layer of a module named without its package; None where the table does not know it."""
    if is_init and module in INIT_LAYERS:
        return INIT_LAYERS[module]
    matches = [name for name in LAYERS if within(module, name) and (name or not module)]
    return LAYERS[max(matches, key=len)] if matches else None


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of the package: its dotted name without the package's own -> its file."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(path: Path, module: str) -> list[tuple[int, str, str]]:
    """(line, module, imported name or "") of every import in a file, those in functions too."""
    inside = module.split(".") if module else []
    package = inside if path.name == "__init__.py" else inside[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - (node.level - 1)]
                base = ".".join([NAME, *above, *([base] if base else [])])
            found += [(node.lineno, base, alias.name) for alias in node.names]
    return found


def own_target(modules: dict[str, Path], base: str, name: str) -> str:
    """The module of this package that ``from base import name`` reads."""
    inner = base.removeprefix(NAME).removeprefix(".")
    child = f"{inner}.{name}".lstrip(".")
    return child if name and child in modules else inner


def third_party_problem(module: str, imported: str) -> str | None:
    top = imported.split(".")[0]
    if top in sys.stdlib_module_names:
        return None
    in_report, layer = within(module, "report"), layer_of(module)
    config = any(within(imported, name) for name in CONFIG_NAMES)
    if config and not any(within(module, name) for name in READS_CONFIG) and module:
        return f"{imported}: only {', '.join(READS_CONFIG)} read a CfgNode"
    if in_report:
        allowed = THIRD_PARTY["report"]
    elif layer == BASE:
        allowed = THIRD_PARTY[BASE]
    elif layer == 0:
        allowed = THIRD_PARTY["surgery" if within(module, "surgery") else "data.formats"]
    else:
        return None
    if any(within(imported, name) for name in allowed):
        return None
    return f"{imported}: {module} may import {', '.join(sorted(allowed)) or 'the stdlib alone'}"


def own_problem(modules: dict[str, Path], module: str, target: str) -> str | None:
    if target not in modules:
        return f"{NAME}.{target}: no such module"
    upper = layer_of(target, modules[target].name == "__init__.py")
    if upper == BASE:
        return None
    if within(module, "report") or within(target, "report"):
        both = within(module, "report") and within(target, "report")
        from_above = layer_of(module) in (3, TOP)
        return None if both or from_above else f"{NAME}.{target}: report stands apart, on files"
    own = layer_of(module, modules[module].name == "__init__.py")
    if own is None or upper is None or upper <= own:
        return None
    return f"{NAME}.{target}: layer {own} may not import layer {upper}"


def violations(package: Path) -> list[str]:
    """Every import that points upwards, as file:line and what is wrong."""
    modules = modules_of(package)
    found = []
    for module, path in modules.items():
        where = path.relative_to(package)
        if layer_of(module) is None and not within(module, "report"):
            found.append(f"{where}: has no layer; add it to the table in tests/test_layers.py")
            continue
        for line, base, name in imports_of(path, module):
            if (base, name) == (NAME, "__version__"):
                continue
            if within(base, NAME):
                problem = own_problem(modules, module, own_target(modules, base, name))
            else:
                problem = third_party_problem(module, f"{base}.{name}" if name else base)
            if problem:
                found.append(f"{where}:{line}: {problem}")
    return found


def test_imports_point_downwards() -> None:
    assert violations(PACKAGE) == []


ALLOWED = [
    # module, source
    ("surgery/plan.py", "import torch\nfrom transfer_maskrcnn.surgery.read import f"),
    ("surgery/plan.py", "from ..errors import TransferError\nfrom . import read"),
    ("surgery/names.py", "from detectron2.checkpoint import c2_model_loading"),
    ("data/formats/coco.py", "from detectron2.structures import BoxMode\nimport PIL.Image"),
    ("data/registry.py", "from .formats import coco\nfrom detectron2.data import DatasetCatalog"),
    (
        "surgery/hook.py",
        "from detectron2.config import CfgNode\nfrom transfer_maskrcnn import data",
    ),
    ("engine/trainer.py", "from transfer_maskrcnn.surgery.hook import WeightSurgeryHook"),
    ("study/run.py", "from transfer_maskrcnn.engine import trainer"),
    ("__init__.py", "from .engine.trainer import TransferTrainer\nimport detectron2.config"),
    ("report/html.py", "import jinja2\nfrom .pictures import draw\nfrom ..files import write_json"),
]
FORBIDDEN = [
    # module, source, what the violation must name
    ("surgery/plan.py", "from transfer_maskrcnn.surgery.hook import H", "may not import layer 2"),
    ("surgery/plan.py", "from . import hook", "may not import layer 2"),
    ("surgery/plan.py", "from detectron2.config import CfgNode", "CfgNode"),
    (
        "surgery/read.py",
        "def f():\n    from detectron2.data import DatasetCatalog",
        "detectron2.data",
    ),
    ("surgery/plan.py", "from transfer_maskrcnn.data.formats import coco\nimport tqdm", "tqdm"),
    ("data/formats/coco.py", "from ..registry import register_dataset", "may not import layer 1"),
    ("data/formats/coco.py", "import detectron2.data", "detectron2.data"),
    ("data/registry.py", "import transfer_maskrcnn.engine.trainer", "may not import layer 2"),
    ("data/registry.py", "from yacs.config import CfgNode", "CfgNode"),
    (
        "data/registry.py",
        "from transfer_maskrcnn import register_dataset",
        "may not import layer 9",
    ),
    ("inference/predict.py", "from fvcore.common.config import CfgNode", "CfgNode"),
    ("engine/trainer.py", "from transfer_maskrcnn.study import run", "may not import layer 3"),
    ("engine/trainer.py", "from transfer_maskrcnn.report import html", "report stands apart"),
    ("report/html.py", "import torch", "torch"),
    ("report/html.py", "from transfer_maskrcnn.surgery import plan", "report stands apart"),
    ("errors.py", "import numpy", "numpy"),
    ("helpers.py", "", "has no layer"),
    ("surgery/plan.py", "from transfer_maskrcnn.surgery.gone import x", "no such module"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package with every module that the cases name, all empty."""
    names = [case[0] for case in ALLOWED + FORBIDDEN if case[0] != "helpers.py"]
    for name in [*names, "files.py", "data/formats/__init__.py", "surgery/hook.py"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        (path.parent / "__init__.py").touch()
    (tmp_path / "report" / "pictures.py").touch()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "data" / "__init__.py").touch()
    assert violations(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_allowed(tree: Path, module: str, source: str) -> None:
    (tree / module).write_text(source)
    assert violations(tree) == []


@pytest.mark.parametrize(("module", "source", "message"), FORBIDDEN)
def test_forbidden(tree: Path, module: str, source: str, message: str) -> None:
    (tree / module).write_text(source)
    assert len(violations(tree)) == 1
    assert message in violations(tree)[0]
