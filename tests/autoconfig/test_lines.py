"""Lines become YAML that reads back as the same values, each below its reason."""

from __future__ import annotations

import yaml

from transfer_maskrcnn.autoconfig.lines import Line, yaml_text

LINES = [
    Line("A.B.C", [[0.5, 1], [2]], "nested: with a colon, a # and " + "many words " * 20),
    Line("TOP", "a b/it's: #1", "text that needs quotes"),
    Line("A.D", 5e-05, "a small number"),
    Line("A.B.E", True, "groups are joined"),
    Line("F", [], "nothing"),
    Line("G", "größe_train", "letters"),
]


def test_values_read_back() -> None:
    assert yaml.safe_load(yaml_text(LINES)) == {
        "A": {"B": {"C": [[0.5, 1], [2]], "E": True}, "D": 5e-05},
        "TOP": "a b/it's: #1",
        "F": [],
        "G": "größe_train",
    }


def test_a_line_stands_below_its_reason() -> None:
    rows = yaml_text(LINES).splitlines()
    assert rows[rows.index("  D: 5.0e-05") - 1] == "  # a small number"
    assert max(map(len, rows)) <= 100
    assert sum("many words" in row for row in rows) > 1
