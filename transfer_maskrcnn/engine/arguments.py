"""Flags and KEY VALUE pairs in any order: argparse's REMAINDER swallows flags behind a pair."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse like ``parser``, whose last argument is ``opts``, but find flags among ``opts`` too."""
    for action in parser._actions:
        if action.nargs == argparse.REMAINDER:
            action.nargs = argparse.ZERO_OR_MORE
    args = parser.parse_intermixed_args(argv)
    args.opts = args.opts or []
    return args
