"""Whatever a YAML file holds is read as plain values, or refused at once."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.formats.yolo import load_yolo
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.errors import ConfigError, DatasetError, TransferError
from transfer_maskrcnn.files import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
# each list ten of the one before: a billion values in a few hundred bytes
BOMB = "a0: &a0 [cat]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: [1, x, yes, 1.5, null]", {"a": [1, "x", True, 1.5, None]}),
        # anchors as people use them: one list of classes, and keys that an entry overrides
        ("a: &c [cat, dog]\nb: *c", {"a": ["cat", "dog"], "b": ["cat", "dog"]}),
        (
            "a: &a {format: coco, split: x}\nb: {<<: *a, split: y}",
            {"a": {"format": "coco", "split": "x"}, "b": {"format": "coco", "split": "y"}},
        ),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("[0x10, -9223372036854775807, 1:30]", [16, -9223372036854775807, 90]),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert parse_yaml(text, "x.yaml") == value


@pytest.mark.parametrize(
    ("text", "at", "problem"),
    [
        ("a: [1", "line 1, column 6", "expected ',' or ']'"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, column 4", "could not determine"),
        # what PyYAML answers with a KeyError, IndexError, AttributeError, ValueError and TypeError
        *((f"a: {tag}", "", "") for tag in ("!!bool x", '!!int ""', "!!timestamp x")),
        *((f"a: {value}", "", "") for value in ("2024-13-45", "9" * 5000)),
        # whole numbers that nothing holds: hexadecimal, binary, of base 60, and just one too many
        *((f"a: {n}", "line 1, column 4", "64 bits") for n in ("0x" + "f" * 5000, "1" + ":0" * 50)),
        *((f"a: {n}", "", "64 bits") for n in ("0b" + "1" * 65, "9223372036854775808")),
        ("? {a: 1}\n: 2", "", "unhashable"),
        ("a: 1\nb: 2\n'a': 3", "line 3, column 1", "the key 'a' is there twice"),
        ("[" * 100_000, "line 1, column 51", "nested deeper"),
        ("- " * 5_000 + "x", "line 1, column 101", "nested deeper"),
        ("&a [*a]", "line 1, column 5", "contains itself"),
        ("a: &a {b: *a}", "line 1, column 11", "contains itself"),
        (BOMB, "line 6", "unfold"),
        (BOMB.replace("[cat]", "{<<: {b: c}}"), "line 6", "unfold"),
        ("a: \x00", "", "not allowed"),
    ],
)
def test_refused_at_once(text: str, at: str, problem: str) -> None:
    started = time.process_time()
    with pytest.raises(TransferError) as error:
        parse_yaml(text, "x.yaml")
    assert time.process_time() - started < 1
    assert str(error.value).startswith("x.yaml is not valid YAML") and len(str(error.value)) < 400
    assert at in str(error.value) and problem in str(error.value)


def test_long_is_not_deep() -> None:
    assert len(parse_yaml("names:\n" + "- cat\n" * 5_000, "x.yaml")["names"]) == 5_000


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("a:1 -[]{},&*!?|>'\"%@\n\t#<=~.\u00e9"), max_size=50))
def test_any_text(text: str) -> None:
    """As PyYAML's own loader reads it, or refused."""
    try:
        value = parse_yaml(text, "x.yaml")
    except TransferError:
        return
    assert repr(value) == repr(yaml.safe_load(text))  # repr: .nan is no other


@pytest.mark.parametrize("text", [BOMB, "[" * 5_000, "a: 1\na: 2"], ids=["bomb", "deep", "twice"])
def test_wherever_yaml_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    (tmp_path / "own.yaml").write_text("_BASE_: x.yaml\n")
    for read, kind in (
        (load_yolo, DatasetError),
        (register_catalog, DatasetError),
        (lambda file: load_config(str(file)), ConfigError),
        (lambda file: load_config(str(file.with_name("own.yaml"))), ConfigError),
    ):
        with pytest.raises(kind, match=rf"{re.escape(str(path))} is not valid YAML"):
            read(path)


def test_the_yaml_files_of_the_project_are_sound() -> None:
    files = [p for room in ("configs", "transfer_maskrcnn") for p in (ROOT / room).rglob("*.yaml")]
    assert len(files) > 10
    for path in files:
        parse_yaml(path.read_text(encoding="utf-8"), str(path))
