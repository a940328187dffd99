"""tools/summarise_runs.py from the folders to the table and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer_maskrcnn.commands.summarise_runs import summarise_runs, summarise_runs_tool


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two runs of 10 and of 1 shot, as a shell sorts them: mask AP 2 and 4, 1 and 3."""
    paths = []
    for shots, base in ((10, 2.0), (1, 1.0)):
        for seed in (0, 1):
            path = tmp_path / f"few_{shots}shot_seed{seed}"
            path.mkdir()
            ap = base + 2 * seed
            content = {"val": {"bbox": {"AP": 10 * ap}, "segm": {"AP": ap}}}
            (path / "evaluation.json").write_text(json.dumps(content))
            paths.append(str(path))
    return paths


def test_table_and_file(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.json"
    summarise_runs([*folders, "--reference", "few_1shot", "--json", str(file)])
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[3].split() == ["few_1shot", "2", "-", "2.0", "-", "-", "-", "-", "100.0"]
    assert lines[5].split() == ["few_10shot", "2", "-", "3.0", "-", "-", "-", "-", "150.0"]
    assert f"Written to {file}" in shown
    rows = json.loads(file.read_text())["rows"]
    assert [row["row"] for row in rows] == ["few_1shot", "few_10shot"]
    assert rows[1]["runs"] == folders[:2] and rows[1]["novel"]["mean"] == 3.0


def test_boxes(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    summarise_runs([*folders, "--box"])
    shown = capsys.readouterr().out
    assert "Box AP" in shown and " 30.0 " in shown


def test_mistakes_end_in_one_line(
    folders: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "few_1shot_seed0" / "evaluation.json").unlink()
    monkeypatch.setattr("sys.argv", ["summarise_runs.py", *folders])
    with pytest.raises(SystemExit) as stopped:
        summarise_runs_tool()
    words = str(stopped.value.code)
    assert words.startswith("error: not finished: ") and "train first" in words
    assert "few_1shot_seed0" in words and "seed1" not in words and "\n" not in words
