"""What a reader of the benchmark sees."""

from __future__ import annotations

import json

from benchmarks.rows import Row
from benchmarks.table import json_of, text_of

PEAKS = {"cpu": {"fp32": 100.0, "fast": 400.0, "bytes": 10.0}}
ROW = Row(
    "a step",
    {"detectron2": [4.0, 6.0, 5.0], "here": [1.0, 3.0, 2.0]},
    {
        "detectron2": {"flops": 200.0, "peak_mb": 2000.4, "foreground RoIs": 48.0},
        "here": {"flops": 200.0, "peak_mb": 1000.0},
    },
    "and what to know",
)


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ROW.ratios("here") == [4.0, 2.0, 2.5]
    assert ROW.median("here") == 2.0


def test_text_fits_a_terminal_and_has_every_figure() -> None:
    text = text_of(ROW, PEAKS)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    stock, here = (next(li for li in lines if li.startswith(s)) for s in ROW.seconds)
    assert stock.split() == ["detectron2", "5.000", "2.000", "2000", "48", "foreground", "RoIs"]
    assert here.split() == ["here", "2.000", "2.50x", "0.500", "1000"], "limit in the fast type"
    assert lines[0] == "a step (median of 3)"
    assert lines[-1] == "and what to know"


def test_a_row_without_flops_is_limited_by_its_bytes() -> None:
    row = Row("reading", {"here": [2.0]}, {"here": {"bytes": 5.0}})
    assert json_of(row, PEAKS)["sides"]["here"]["limit"] == 0.5
    assert json_of(Row("evaluation", {"here": [2.0]}), PEAKS)["sides"]["here"]["limit"] is None


def test_json_holds_every_run() -> None:
    content = json.loads(json.dumps(json_of(ROW, PEAKS)))
    assert content["row"] == "a step"
    assert content["sides"]["here"]["seconds"] == [1.0, 3.0, 2.0]
    assert content["sides"]["here"]["ratio"] == 2.5
