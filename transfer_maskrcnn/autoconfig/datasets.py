"""Which datasets to fit a config to, where their names tell."""

from __future__ import annotations

from collections.abc import Sequence

from transfer_maskrcnn.data.formats.names import belong_together, part_of
from transfer_maskrcnn.errors import ConfigError, nearest


def choose_datasets(
    own: Sequence[str], known: Sequence[str], train: str | None, val: str | None
) -> tuple[str, str | None]:
    """The names to train on and to validate on; None where there is nothing to validate on.

    Args:
        own: names that a catalog of the user declares.
        known: all registered names.
        train, val: as the user says; None chooses a name of the other's stem ("x_train" and
            "x_val"), or, of a catalog, its only pair of such names, or its only name.

    Raises:
        ConfigError: an unknown name, or nothing that is obvious.
    """
    for name, flag in ((train, "--train"), (val, "--val")):
        if name is not None and name not in known:
            raise ConfigError(
                f"{flag} {name}: no dataset is registered under this name"
                f"{nearest(name, known)}; expected one of {', '.join(sorted(own or known))}"
            )
    if train is None:
        train = _only_train(own, val)
    if val is None:
        partners = _partners(train, known)
        if len(partners) > 1:
            raise ConfigError(
                f"which of {', '.join(partners)} to validate on? Say it with --val NAME"
            )
        val = partners[0] if partners else None
    if train == val:
        raise ConfigError(
            f"--train and --val are both {train!r}: AP on images that were trained on says nothing"
        )
    return train, val


def _only_train(own: Sequence[str], val: str | None) -> str:
    partners = {name: _partners(name, own) for name in own}
    pairs = [name for name, vals in partners.items() if (val in vals if val else vals)]
    if len(pairs) == 1:
        return pairs[0]
    if len(own) == 1 and val is None:
        return own[0]
    if not own:
        raise ConfigError("which dataset? Expected --catalog FILE, or --train NAME [--val NAME]")
    shown = ", ".join(own)
    raise ConfigError(
        f"which of {shown} to train on? Expected one pair of names such as x_train and x_val; "
        "say it with --train NAME --val NAME"
    )


def _partners(train: str, names: Sequence[str]) -> list[str]:
    """Names that say they are the validation set of ``train``."""
    validated_on = [name for name in names if part_of(name) == "val"]
    is_train = part_of(train) == "train"
    return [name for name in validated_on if is_train and belong_together(train, name)]
