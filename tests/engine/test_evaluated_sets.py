"""Results by the names of their sets, and back."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_maskrcnn.engine.evaluated_sets import by_set, with_source_sets, without_single_name
from transfer_maskrcnn.engine.setup import load_config

A, B = {"segm": {"AP": 1.0}}, {"segm": {"AP": 2.0}}
CASES: list[tuple[Any, Any, Any, Any, Any]] = [
    # TEST, TEST_SOURCE, detectron2's results on all of them, what test gives, by set
    (("a",), (), A, A, {"a": A}),
    (("a", "b"), (), {"a": A, "b": B}, {"a": A, "b": B}, {"a": A, "b": B}),
    # a set of old classes leaves the other's figures their names
    (("a",), ("b",), {"a": A, "b": B}, {**A, "b": B}, {"a": A, "b": B}),
    # a set in both counts once
    (("a",), ("a", "b", "b"), {"a": A, "b": B}, {**A, "b": B}, {"a": A, "b": B}),
    (("a", "b"), ("b",), {"a": A, "b": B}, {"a": A, "b": B}, {"a": A, "b": B}),
    # old classes alone
    ((), ("b",), B, {"b": B}, {"b": B}),
]


@pytest.mark.parametrize(("test", "source", "found", "given", "sets"), CASES)
def test_names(test: Any, source: Any, found: Any, given: Any, sets: Any) -> None:
    cfg = load_config("")
    cfg.DATASETS.TEST, cfg.DATASETS.TEST_SOURCE = test, source
    every = with_source_sets(cfg)
    assert tuple(sets) == every.DATASETS.TEST
    assert by_set(every, found) == sets
    assert without_single_name(cfg, sets) == given
    assert by_set(cfg, given) == sets
