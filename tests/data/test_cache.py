"""Entries come back as they were put, or not at all, whatever happens to the disk."""

from __future__ import annotations

import logging
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transfer_maskrcnn.data import cache as module
from transfer_maskrcnn.data.cache import Cache, digest_of, make_room, user_cache, user_folder

KEY = "0123abc"
TENSORS = {
    "half": torch.full((1, 2, 3), 1.5, dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
    "one": torch.tensor(3.0),
    "right": torch.tensor([True, False]),
    "numpy": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::-1].copy(),
}
VALUE = {"names": ["Übung", "a"], "number": 0.1, "nothing": None}


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    module._warn_once.cache_clear()


def same(cache: Cache, key: str = KEY) -> bool:
    entry = cache.get(key)
    return (
        entry is not None
        and entry.value == VALUE
        and entry.tensors.keys() == TENSORS.keys()
        and all(
            torch.equal(entry.tensors[name], torch.as_tensor(tensor))
            and entry.tensors[name].dtype == torch.as_tensor(tensor).dtype
            for name, tensor in TENSORS.items()
        )
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRANSFER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"TRANSFER_CACHE": "~/a"}, "/home/me/a"),
        ({"TRANSFER_CACHE": "", "XDG_CACHE_HOME": "/b"}, None),  # switched off
        ({"XDG_CACHE_HOME": "/b"}, "/b/transfer_maskrcnn"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/transfer_maskrcnn"),
        ({"XDG_CACHE_HOME": "b"}, "/home/me/.cache/transfer_maskrcnn"),  # not absolute
        ({}, "/home/me/.cache/transfer_maskrcnn"),
    ],
)
def test_where(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str | None
) -> None:
    for name in ("TRANSFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert user_folder() == (None if expected is None else Path(expected))
    folder = user_cache("kind", "part").folder
    assert folder == (None if expected is None else Path(expected, "kind", "part"))


def test_a_relative_folder_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFER_CACHE", "a")
    assert user_folder() == tmp_path / "a"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    for name in ("TRANSFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert user_folder() is None


def test_switched_off_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(None)
    assert cache.full and not cache.put(KEY, TENSORS) and cache.get(KEY) is None
    assert cache.keys() == set() and not caplog.records


def test_an_entry_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    cache = Cache(folder)
    assert cache.get(KEY) is None and cache.keys() == set()
    assert cache.put(KEY, TENSORS, VALUE)
    assert same(cache) and same(Cache(folder))
    assert [p.name for p in folder.iterdir()] == [f"{KEY}.safetensors"]
    assert cache.put("other", value=[1]) and cache.keys() == {KEY, "other"}
    assert Cache(folder).get("other") == ({}, [1])
    cache.path(KEY).rename(cache.path("renamed"))
    assert Cache(folder).get("renamed") is None, "it is of another key"
    assert cache.keys() == {"other"} and not cache.full


def test_writing_into_what_was_read_changes_no_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, TENSORS, VALUE)
    entry = cache.get(KEY)
    assert entry is not None
    entry.tensors["one"].zero_()
    assert same(cache) and same(Cache(tmp_path))


def test_the_key_is_of_the_content() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert len({digest_of(c) for c in (None, [], [1], ["1"], {"a": 1})}) == 5


def test_a_changed_byte_or_a_cut_is_never_an_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    Cache(tmp_path).put(KEY, TENSORS, VALUE)
    path = Cache(tmp_path).path(KEY)
    whole, accepted = path.read_bytes(), 0
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in range(len(whole))
    ]
    for content in [*damaged, b"\xff" * 200, whole + b"\0"]:
        path.write_bytes(content)
        cache = Cache(tmp_path)
        if cache.get(KEY) is not None:
            accepted += 1
            assert same(cache), "only where it changes nothing that is read"
        else:
            assert not path.exists(), "the next start is not to find it"
    assert accepted < len(whole) / 20


@pytest.mark.parametrize("value", ["[" * 100_000, "{", "nan?"])
def test_a_value_made_to_do_harm_is_refused(tmp_path: Path, value: str) -> None:
    cache = Cache(tmp_path)
    checksum = str(module._checksum(KEY, module.Entry({}, value)))
    module.save_file({}, cache.path(KEY), metadata={module._HEADER: f"{checksum} {value}"})
    assert cache.get(KEY) is None and not cache.path(KEY).exists()


@pytest.mark.parametrize("problem", ["full disk", "write fails", "a file in the way"])
def test_no_room_costs_the_cache_and_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: str,
) -> None:
    folder = tmp_path / "a" / "b"
    Cache(folder).put("before", TENSORS, VALUE)
    if problem == "full disk":
        usage = namedtuple("usage", "free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30))
    elif problem == "write fails":

        def fail(tensors: Any, path: Path, metadata: Any) -> None:
            path.write_bytes(b"half")
            raise module.SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr(module, "save_file", fail)
    else:
        shutil.rmtree(folder)
        folder.write_text("")
    for _ in range(2):  # the folder is opened twice, as by two parts of a run
        cache = Cache(folder)
        assert not cache.put(KEY, TENSORS, VALUE) and cache.full
        assert not cache.put("small") and cache.get(KEY) is None
    assert len(caplog.records) == 1
    assert problem == "a file in the way" or [p.name for p in folder.iterdir()] == [
        "before.safetensors"
    ]


def aged(path: Path, size: int, age: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1_000_000 - age,) * 2)
    return path


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    names = ["a/newest", "b/newer", "a/older", "b/oldest"]
    for age, name in enumerate(names):
        aged(tmp_path / f"{name}.safetensors", 100, age)
    aged(tmp_path / "of another program", 1000, 9)
    make_room(tmp_path, 400)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    make_room(tmp_path, 250)
    assert {p.stem for p in tmp_path.rglob("*.safetensors")} == {"newest", "newer"}
    assert (tmp_path / "of another program").exists()


def test_reading_counts_as_use_and_writing_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    cache = user_cache("kind")
    for age, key in enumerate(["unused", "used"]):
        cache.put(key, TENSORS, VALUE)
        os.utime(cache.path(key), (1_000_000 - age,) * 2)
    assert same(cache, "used")
    size = cache.path("used").stat().st_size
    monkeypatch.setattr(module, "_MAX_BYTES", 2 * size)
    assert user_cache("other").put("new", TENSORS, VALUE)
    assert cache.keys() == {"used"} and user_cache("other").keys() == {"new"}
    assert not user_cache("third").put("large", {"a": torch.zeros(10_000)}), "it would be all alone"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    make_room(tmp_path / "nowhere", 0)
    assert Cache(tmp_path / "nowhere").get(KEY) is None
    assert not (tmp_path / "nowhere").exists()
