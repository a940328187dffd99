#!/usr/bin/env python3
"""Write the pages of docs/ that say what the code says. A test compares them.

Example:
    python docs/reference.py
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from unittest import mock

from detectron2.config import get_cfg

from transfer_maskrcnn import __main__, cli, config

HERE = Path(__file__).resolve().parent


def pages() -> dict[str, str]:
    """What each generated page has to say, by its name."""
    return {"keys.md": keys_page(), "commands.md": commands_page()}


def own_keys() -> Iterator[tuple[str, str]]:
    """Each key of this project with the comment above it in config.py, in the file's order."""
    source = Path(config.__file__).read_text(encoding="utf-8")
    dicts = {
        node.target.id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    lines = source.splitlines()

    def walk(node: ast.expr | None, prefix: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Name):
            node = dicts[node.id]
        assert isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True):
            assert isinstance(key, ast.Constant)
            if isinstance(value, (ast.Dict, ast.Name)):
                yield from walk(value, f"{prefix}{key.value}.")
            else:
                yield f"{prefix}{key.value}", comment_above(lines, key.lineno - 1)

    yield from walk(dicts["_OWN_KEYS"], "")


def comment_above(lines: list[str], row: int) -> str:
    words: list[str] = []
    while row and (comment := re.match(r"\s+# (.*)", lines[row - 1])):
        words.insert(0, comment[1])
        row -= 1
    return " ".join(words)


def keys_page() -> str:
    cfg = get_cfg()
    config.add_transfer_config(cfg)
    names = {part for key, _ in config.flat_config(cfg) for part in (key, *key.split("."))}
    page = [
        "# All keys",
        "Every key that this project adds to [detectron2's]"
        "(https://detectron2.readthedocs.io/en/latest/modules/config.html), with its default. "
        "[Training](training.md) has which of them to set for what, and how a value is typed. "
        "`MODEL.DEVICE`, one of detectron2's, is a GPU here if there is one.",
        "<!-- written by docs/reference.py from the comments of transfer_maskrcnn/config.py -->",
    ]
    for key, comment in own_keys():
        default = reduce(getattr, key.split("."), cfg)
        page += [f"## {key}", f"Default: `{default!r}`", marked(comment, names)]
    return "\n\n".join(page) + "\n"


def marked(text: str, names: set[str]) -> str:
    """With keys, presets and quoted values as code, and pages and addresses as links."""
    code = r"""\[\[.*?\]\]|"[^"]*"|\b[a-z]+(_[a-z]+)+(\.pth)?\b|[A-Z][A-Z0-9_.]*[A-Z0-9_]"""

    def mark(match: re.Match[str]) -> str:
        is_code = match[0] in names or not match[0][0].isupper()
        return f"`{match[0]}`" if is_code else match[0]

    linked = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", re.sub(code, mark, text))
    return re.sub(r"https://[^\s,)]+", r"<\g<0>>", linked)


def commands_page() -> str:
    page = [
        "# Command line",
        "Each command with what its `--help` says. In a clone, `tools/` has the same commands as "
        "files, and `.venv/bin/transfer-maskrcnn` is the command until `. .venv/bin/activate` has "
        "been typed.",
        "<!-- written by docs/reference.py -->",
        in_block(help_of()),
    ]
    for name, command in cli.COMMANDS.items():
        page += [f"## {name}", f"In a clone also `tools/{command.file}`.", in_block(help_of(name))]
    return "\n\n".join(page) + "\n"


def help_of(*words: str) -> str:
    """What ``transfer-maskrcnn WORDS --help`` prints, where it is installed."""
    said = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [cli.COMMAND, *words, "--help"]),
        mock.patch.object(shutil, "which", lambda *_, **__: sys.executable),  # found, in PATH
        mock.patch.dict(os.environ, COLUMNS="80"),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        __main__.main()
    return said.getvalue()


def in_block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"written: docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
