"""tools/explain_ap.py: a folder in, text out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.commands.explain_ap import explain_ap_tool


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["explain_ap.py", *arguments])
    explain_ap_tool()


def write_evaluation(folder: Path) -> None:
    """One object, which is found."""
    folder.mkdir(parents=True)
    thing = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20]}
    truth = {
        "images": [{"id": 1, "height": 40, "width": 40, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**thing, "id": 1, "area": 400, "iscrowd": 0}],
    }
    (folder / f"{folder.name}_ground_truth.json").write_text(json.dumps(truth))
    results = [{**thing, "score": 0.9}]
    (folder / "coco_instances_results.json").write_text(json.dumps(results))


def test_every_data_set_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cats", "more_cats"):
        write_evaluation(tmp_path / "inference" / name)
    run(monkeypatch, str(tmp_path))
    shown = capsys.readouterr().out
    assert "cats: Nothing to repair: AP is 100.0." in shown
    assert "more_cats: Nothing to repair: AP is 100.0." in shown
    assert "\033[" not in shown, "no colours into a pipe"
    assert (tmp_path / "inference" / "cats" / "explanation.json").is_file()


def test_a_folder_without_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"error: .*there is no evaluation"):
        run(monkeypatch, str(tmp_path))


def test_help_shows_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    shown = capsys.readouterr().out
    words = " ".join(shown.replace("\\\n", "").split())
    assert f"{typed('explain')} output/mine" in words and "Exit status" in shown
    assert max(map(len, shown.splitlines())) <= 80
