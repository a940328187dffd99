"""A line of a config with its reason, and the YAML text of many."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 100
Tree = dict[str, Any]  # a part of a key -> what is below it, or the Line that ends there


@dataclass(frozen=True)
class Line:
    """One key of a config.

    Attributes:
        key: dotted, as in ``SOLVER.MAX_ITER``.
        value: what YAML can hold.
        reason: in plain words; becomes the comment above it.
    """

    key: str
    value: Any
    reason: str


def yaml_text(lines: Iterable[Line]) -> str:
    """The lines as nested YAML, each under its reason, in order of their first appearance."""
    tree: Tree = {}
    for line in lines:
        *groups, last = line.key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = line
    return "".join(f"{row}\n" for row in _rows(tree, ""))


def _rows(tree: Tree, indent: str) -> Iterable[str]:
    for key, below in tree.items():
        if isinstance(below, Line):
            yield from comment(below.reason, indent)
            yield f"{indent}{key}: {scalar(below.value)}"
        else:
            yield f"{indent}{key}:"
            yield from _rows(below, indent + "  ")


def percent(share: float) -> str:
    """A share from 0 to 1 in words."""
    return f"{100 * share:.0f} %"


def comment(text: str, indent: str = "") -> list[str]:
    """``text`` as comment lines of at most 100 columns."""
    head = f"{indent}# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=head, break_on_hyphens=False
    )


def scalar(value: Any) -> str:
    """``value`` on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()
