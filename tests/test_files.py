"""Files are written whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from transfer_maskrcnn.errors import DatasetError, nearest
from transfer_maskrcnn.files import atomic_path, file_digest, write_json


def test_json_has_null_where_it_has_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ap": [math.nan, 1.5], "worst": -math.inf})
    assert json.loads((tmp_path / "a.json").read_text()) == {"ap": [None, 1.5], "worst": None}


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.touch(mode=0o600)  # as safetensors makes its files
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_keeps_what_was_there_and_leaves_no_litter(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_out_of_a_loader_worker_keeps_only_its_own_words() -> None:
    wrapped = (
        "Caught DatasetError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "x.py", line 1\ntransfer_maskrcnn.errors.DatasetError: cannot use a.png\n'
    )
    assert str(DatasetError(wrapped)) == "cannot use a.png"
    assert str(DatasetError("plain")) == "plain"


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("baloon", ["balloon", "kudzu"], "; did you mean 'balloon'?"),
        ("zebra", ["balloon", "kudzu"], ""),  # nothing near: no guess
    ],
)
def test_nearest(word: str, known: list[str], said: str) -> None:
    assert nearest(word, known) == said


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    a, b, c = (file_digest(tmp_path / name) for name in "abc")
    assert a == b != c
