"""Flags are found before and behind KEY VALUE pairs."""

from __future__ import annotations

import argparse

import pytest

from transfer_maskrcnn.cli import parse_arguments


@pytest.mark.parametrize(
    ("line", "resume", "file", "opts"),
    [
        ("--resume --file a K 1", True, "a", ["K", "1"]),
        # behind the pairs, as "the same command with --resume" puts it
        ("--file a K 1 --resume", True, "a", ["K", "1"]),
        # between them, with a value
        ("K 1 --file a L 2 --resume M 3", True, "a", ["K", "1", "L", "2", "M", "3"]),
        ("K -1", False, None, ["K", "-1"]),
        # with a sign; only a key's first one is it, and a value may have more
        ("K=1 L 2 M=a=b", False, None, ["K", "1", "L", "2", "M", "a=b"]),
        ("K a=b L= M=-1", False, None, ["K", "a=b", "L", "", "M", "-1"]),
        ("", False, None, []),
    ],
)
def test_any_order(line: str, resume: bool, file: str | None, opts: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--file")
    args = parse_arguments(parser, line.split())
    assert (args.resume, args.file, args.opts) == (resume, file, opts)


def strict_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--dry-run", action="store_true")
    group.add_argument("--write", action="store_true")
    return parser


def test_what_is_required_may_stand_behind_the_pairs() -> None:
    assert parse_arguments(strict_parser(), ["K", "1", "--output", "a"]).output == "a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--output a --dry-run K 1 --write", "not allowed with argument --dry-run"),
        ("K 1", "--output"),
    ],
)
def test_mistakes_behind_the_pairs(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(strict_parser(), line.split())
    assert message in capsys.readouterr().err
