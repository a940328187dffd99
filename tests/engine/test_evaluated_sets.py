"""Results by the names of their sets, and back."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.evaluation import sets_to_test, without_single_name

A, B = {"segm": {"AP": 1.0}}, {"segm": {"AP": 2.0}}
CASES: list[tuple[Any, Any, Any, Any]] = [
    # TEST, TEST_BASE, results by set, and with detectron2's names
    (("a",), (), {"a": A}, A),
    (("a", "b"), (), {"a": A, "b": B}, {"a": A, "b": B}),
    # a set of base classes leaves the other's figures their names
    (("a",), ("b",), {"a": A, "b": B}, {**A, "b": B}),
    # a set in both counts once
    (("a",), ("a", "b", "b"), {"a": A, "b": B}, {**A, "b": B}),
    (("a", "b"), ("b",), {"a": A, "b": B}, {"a": A, "b": B}),
    # base classes alone
    ((), ("b",), {"b": B}, {"b": B}),
]


@pytest.mark.parametrize(("test", "source", "sets", "given"), CASES)
def test_names(test: Any, source: Any, sets: Any, given: Any) -> None:
    cfg = load_config("")
    cfg.DATASETS.TEST, cfg.DATASETS.TEST_BASE = test, source
    assert tuple(sets) == sets_to_test(cfg)
    assert without_single_name(cfg, sets) == given
