"""The package stays as small as its design wants it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("house", Path(__file__).with_name("house.py"))
assert _spec is not None and _spec.loader is not None
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)


def over(figures: dict[str, int]) -> dict[str, int]:
    return {name: figure for name, figure in figures.items() if figure > house.LIMITS[name][0]}


def test_statements_are_counted_without_docstrings() -> None:
    source = (
        '"""A module."""\nimport os\n\ndef f():\n    """Does."""\n    if os:\n        return 1\n'
    )
    assert house.statements(source) == 4  # import, def, if, return


def test_size() -> None:
    assert over(house.size()) == {}


@pytest.mark.slow
def test_start_of_a_training(tmp_path: Path) -> None:
    assert over(house.start_of_a_training(tmp_path)) == {}
