"""Small pieces of sentences."""

from __future__ import annotations


def plural(number: int, word: str) -> str:
    """``(1, "image")`` -> "1 image", ``(1200, "image")`` -> "1,200 images"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shorten(name: str, most: int = 24) -> str:
    """A long name without its middle."""
    head = most // 2 - 1
    return name if len(name) <= most else f"{name[:head]}...{name[-(most - head - 3) :]}"
