"""What a run prints."""

from __future__ import annotations

import math
from typing import Any

import pytest
from detectron2.data import DatasetCatalog

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine.evaluation import print_summary

OBJECT, CROWD = {"iscrowd": 0}, {"iscrowd": 1}
# AP of the first set, annotations of the second, whose AP is undefined; whether the model is to
# blame
UNDEFINED: list[tuple[float, list[dict[str, Any]], bool]] = [
    (50.0, [OBJECT, CROWD], True),
    (50.0, [{}], True),
    (50.0, [CROWD], False),
    (math.nan, [CROWD], True),
]


@pytest.mark.parametrize(("first", "annotations", "blamed"), UNDEFINED)
def test_an_undefined_ap_is_the_models_fault_where_there_are_objects(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    first: float,
    annotations: list[dict[str, Any]],
    blamed: bool,
) -> None:
    sets = {"a": [{"annotations": [OBJECT]}], "b": [{"annotations": annotations}, {}]}
    monkeypatch.setattr(DatasetCatalog, "get", sets.__getitem__)
    cfg = load_config("", ["DATASETS.TEST", "('a', 'b')", "OUTPUT_DIR", str(tmp_path)])
    print_summary(cfg, {"a": {"bbox": {"AP": first}}, "b": {"bbox": {"AP": math.nan}}})
    assert ("the model detected nothing" in capsys.readouterr().out) is blamed
