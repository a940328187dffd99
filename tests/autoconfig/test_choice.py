"""Datasets are chosen where their names tell, and only there."""

from __future__ import annotations

import pytest

from transfer_maskrcnn.autoconfig.datasets import choose_datasets
from transfer_maskrcnn.errors import ConfigError

BUILTIN = ["balloon_train", "balloon_val"]
# names of the catalog, --train, --val, what is chosen
CHOICES: list[tuple[list[str], str | None, str | None, tuple[str, str | None]]] = [
    (["a_train", "a_val"], None, None, ("a_train", "a_val")),
    (["a_valid", "a_train", "a_test"], None, None, ("a_train", "a_valid")),
    (["nuts/train", "nuts/validation"], None, None, ("nuts/train", "nuts/validation")),
    (["train", "val"], None, None, ("train", "val")),
    (["A-Train", "A-Val"], None, None, ("A-Train", "A-Val")),
    # one dataset only
    (["things"], None, None, ("things", None)),
    # two pairs: half of one is enough
    (["a_train", "a_val", "b_train", "b_val"], "b_train", None, ("b_train", "b_val")),
    (["a_train", "a_val", "b_train", "b_val"], None, "a_val", ("a_train", "a_val")),
    # no partner
    (["a", "b"], "a", None, ("a", None)),
    (["a", "b"], "a", "b", ("a", "b")),
    # no catalog
    ([], "balloon_train", None, ("balloon_train", "balloon_val")),
    # of two kinds
    (["a"], "a", "balloon_val", ("a", "balloon_val")),
]


@pytest.mark.parametrize(("own", "train", "val", "expected"), CHOICES)
def test_choice(
    own: list[str], train: str | None, val: str | None, expected: tuple[str, str | None]
) -> None:
    assert choose_datasets(own, [*BUILTIN, *own], train, val) == expected


# names of the catalog, --train, --val, what the error must say
UNCLEAR = [
    ([], None, None, "Expected --catalog FILE, or --train NAME"),
    (["a", "b"], None, None, "which of a, b to train on"),
    (["a_train", "a_val", "b_train", "b_val"], None, None, "which of a_train, a_val, b_train"),
    (["a_train", "b_val"], None, None, "which of a_train, b_val to train on"),
    (["a_train", "a_val", "a_valid"], None, None, "which of a_val, a_valid to validate on"),
    (["a_train", "a_val"], "a_trian", None, "--train a_trian.*did you mean 'a_train'.*a_train, a_"),
    (["a_train", "a_val"], None, "b", "--val b: no dataset"),
    (["a"], "a", "a", "both 'a'"),
]


@pytest.mark.parametrize(("own", "train", "val", "message"), UNCLEAR)
def test_unclear(own: list[str], train: str | None, val: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_datasets(own, [*BUILTIN, *own], train, val)
