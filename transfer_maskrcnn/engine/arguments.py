"""Flags and KEY VALUE pairs in any order: argparse's REMAINDER swallows flags behind a pair."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse like ``parser``, whose last argument is ``opts``, but find flags among ``opts`` too."""
    args = parser.parse_args(argv)
    pairs: list[str] = []
    while flags := [i for i, word in enumerate(args.opts) if word.startswith("--")]:
        pairs += args.opts[: flags[0]]
        args = parser.parse_args(args.opts[flags[0] :], namespace=args)
    args.opts = pairs + args.opts
    return args
