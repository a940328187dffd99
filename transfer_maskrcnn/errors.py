"""The errors a user can cause and mend: each names the value, what was expected and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class TransferError(ValueError):
    """Base of every error this package raises on purpose; tools print it without a stack trace."""

    def __init__(self, message: str):
        # A DataLoader worker re-raises the same class with its whole traceback as the message; the
        # user needs only what stood behind the class name at its end.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class DatasetError(TransferError):
    """An annotation file, an image or a dataset declaration that cannot be used as it is."""


class WeightFileError(TransferError):
    """A weight file that cannot be read, or may not be read safely."""


class TransferPlanError(TransferError):
    """A transfer that would not do what the configuration says.

    Attributes:
        problems: what is wrong with it, each with its code, where a plan found it.
    """

    problems: Sequence[Any] = ()


class ConfigError(TransferError):
    """A configuration that contradicts itself, the dataset or the machine."""


class CheckpointError(TransferError):
    """A checkpoint that cannot be written."""


class TrainingDivergedError(TransferError):
    """Loss or weights are no longer finite."""


def refuse(*cases: tuple[object, str], error: type[TransferError] = ConfigError) -> None:
    """Raise ``error`` in the words of the first case that holds.

    Args:
        cases: what is wrong if it is true, and the words for it.
    """
    for wrong, words in cases:
        if wrong:
            raise error(words)


def nearest(word: str, known: Iterable[str], found_in: str = "") -> str:
    """ "; did you mean 'x'?" where a known word is close to ``word``, else ""."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not close:
        return ""
    return f"; {found_in} has {close[0]!r}" if found_in else f"; did you mean {close[0]!r}?"
