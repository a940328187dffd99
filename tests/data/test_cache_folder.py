"""Where parsed datasets are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transfer_maskrcnn.data import cache_folder as folders
from transfer_maskrcnn.data.cache_folder import cache_folder, make_room, mark_used


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRANSFER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/datasets"),
        ({"TRANSFER_CACHE": "~/a"}, "/home/me/a/datasets"),
        ({"TRANSFER_CACHE": "", "XDG_CACHE_HOME": "/b"}, None),  # switched off
        ({"XDG_CACHE_HOME": "/b"}, "/b/transfer_maskrcnn/datasets"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/transfer_maskrcnn/datasets"),
        ({"XDG_CACHE_HOME": "b"}, "/home/me/.cache/transfer_maskrcnn/datasets"),  # not absolute
        ({}, "/home/me/.cache/transfer_maskrcnn/datasets"),
    ],
)
def test_where(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str | None
) -> None:
    for name in ("TRANSFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (None if expected is None else Path(expected))


def test_a_relative_folder_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFER_CACHE", "a")
    assert cache_folder() == tmp_path / "a" / "datasets"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    for name in ("TRANSFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None


def test_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "newer", "older", "oldest"]):
        path = tmp_path / f"{name}.records"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1_000_000 - age,) * 2)
    mark_used(tmp_path / "oldest.records")
    monkeypatch.setattr(folders, "_MAX_BYTES", 250)
    make_room(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"oldest", "newest"}


def test_what_is_about_to_be_used_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for age, name in enumerate(["other", "mine"]):
        path = tmp_path / f"{name}.records"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1_000_000 - age,) * 2)
    monkeypatch.setattr(folders, "_MAX_BYTES", 50)
    make_room(tmp_path, keep=tmp_path / "mine.records")
    assert {path.stem for path in tmp_path.iterdir()} == {"mine"}


def test_room_for_all(tmp_path: Path) -> None:
    for name in ("a.records", "b.records"):
        (tmp_path / name).write_bytes(b"x")
    make_room(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    for name in (".a.records.1.part", ".b.records.2.part", "of another program"):
        (tmp_path / name).touch()
    for name in (".a.records.1.part", "of another program"):
        os.utime(tmp_path / name, (1_000_000, 1_000_000))
    make_room(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".b.records.2.part",  # somebody may be writing it
        "of another program",
    }


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    make_room(tmp_path / "nowhere")
    mark_used(tmp_path / "nowhere" / "a.records")
    assert not (tmp_path / "nowhere").exists()
