"""A model that keeps all classes of its source and gains those of a dataset."""

from collections.abc import Sequence

from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.surgery.classes import find_class


def extended_classes(source: Sequence[str], dataset: Sequence[str]) -> tuple[str, ...]:
    """The source's class names in their order, then the dataset's new ones in theirs.

    A class is not new where :func:`known_classes` finds it in the source. Rows without a class
    ("" in ``source``) are left out.

    Raises:
        ConfigError: two of the dataset's classes are one of the source's.
    """
    named = tuple(dict.fromkeys(name for name in source if name))
    known = known_classes(dataset, named)
    return named + tuple(name for name in dataset if name not in known)


def known_classes(dataset: Sequence[str], model: Sequence[str]) -> dict[str, str]:
    """The class of the model that each of the dataset's is, where there is one.

    The same name; else a name equal but for case, space, underscore or plural, unless the dataset
    has that one, too.

    Raises:
        ConfigError: two of the dataset's classes are one of the model's.
    """
    known = {name: name for name in dataset if name in model}
    free = [name for name in model if name not in known]
    claimed: dict[str, str] = {}
    for name in dataset:
        found = None if name in known else find_class(name, free)
        if found is None:
            continue
        other = claimed.setdefault(found, name)
        if other != name:
            raise ConfigError(
                f"the dataset's classes {other!r} and {name!r} both are the model's class "
                f"{found!r}; rename one of them, or make them one with `merge` where the dataset "
                "is declared"
            )
        known[name] = found
    return known
