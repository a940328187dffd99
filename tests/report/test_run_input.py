"""The files of a run, whole, missing or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.run_input import FILES, read_lines, read_run


def test_a_whole_run(whole_run: Path) -> None:
    run = read_run(whole_run)
    assert run.unreadable == ()
    assert run.evaluation["shapes_val"]["segm"]["AP"] == 19.0
    assert run.evaluation["shapes_val"]["bbox"]["APs"] is None
    assert [row["iteration"] for row in run.metrics] == [19, 39, 59]
    assert [row["iteration"] for row in run.curve] == [0, 50, 100]
    assert run.environment["seed"] == 3
    assert run.drift == {"backbone.res2": 0.0132, "roi_heads.mask_head": 0.0}
    assert run.cost["seconds"] == 98.2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_nothing_to_complain_of(whole_run: Path, name: str) -> None:
    (whole_run / name).unlink()
    assert read_run(whole_run).unreadable == ()


@pytest.mark.parametrize("content", ["{", '"text"', "null", "[[1]]", '{"a": [1]}'])
@pytest.mark.parametrize("name", ["evaluation.json", "eval_history.json"])
def test_a_damaged_file_is_named_and_the_others_are_read(
    whole_run: Path, name: str, content: str
) -> None:
    (whole_run / name).write_text(content)
    run = read_run(whole_run)
    if content != "null":  # nothing was written there
        assert run.unreadable == (f"{name} is damaged; what it holds is left out.",)
    assert run.metrics and run.drift
    assert not {"evaluation.json": run.evaluation, "eval_history.json": run.curve}[name]


METRICS = [
    # lines, iteration -> total_loss, damaged lines
    (['{"iteration": 19, "total_loss": 2}\n'], {19: 2}, 0),
    # a resumed run repeats iterations: the last has its say
    (
        [
            '{"iteration": 19, "total_loss": 2}\n',
            '{"iteration": 39, "total_loss": 1}\n',
            '{"iteration": 19, "total_loss": 3}\n',
        ],
        {19: 3, 39: 1},
        0,
    ),
    # the last line was being written
    (['{"iteration": 19, "total_loss": 2}\n', '{"iteration": 39, "to'], {19: 2}, 0),
    # a kill and a resumed run joined two lines
    (
        ['{"iteration": 19, "to{"iteration": 39, "total_loss": 1}\n', '{"iteration": 59}\n'],
        {59: None},
        1,
    ),
    # neither rows nor iterations
    (["[1]\n", '{"total_loss": 1}\n', '{"iteration": NaN}\n', "\n"], {}, 3),
    # a diverged run's loss is there, as no number
    (['{"iteration": 19, "total_loss": NaN}\n'], {19: "nan"}, 0),
]


@pytest.mark.parametrize(("lines", "expected", "lost"), METRICS)
def test_lines(tmp_path: Path, lines: list[str], expected: dict[int, object], lost: int) -> None:
    (tmp_path / "metrics.json").write_text("".join(lines))
    rows, found = read_lines(tmp_path / "metrics.json")
    values = {row["iteration"]: row.get("total_loss") for row in rows}
    assert {i: "nan" if v != v else v for i, v in values.items()} == expected
    assert found == lost


def test_rows_of_one_iteration_are_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5, "lr": 1}\n{"iteration": 5, "total_loss": 2}\n')
    assert read_lines(path) == ([{"iteration": 5, "lr": 1, "total_loss": 2}], 0)


def test_damaged_lines_are_counted(whole_run: Path) -> None:
    (whole_run / "metrics.json").write_bytes(b"\xff\xfe\n{}\n" + json.dumps([]).encode())
    assert read_run(whole_run).unreadable == (
        "metrics.json: 2 of its lines are damaged and left out.",
    )


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"holds no run: .*; give a run's OUTPUT_DIR"):
        read_run(tmp_path)
