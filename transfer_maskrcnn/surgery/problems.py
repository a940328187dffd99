"""What can be wrong with a transfer, as values: a plan collects them and raises once."""

from collections.abc import Sequence
from dataclasses import dataclass

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.fates import Matching, TensorFate
from transfer_maskrcnn.surgery.load import SourceWeights


@dataclass(frozen=True)
class Problem:
    """``code`` for programs, ``text`` says what is wrong, ``remedy`` what to do about it."""

    code: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}"


@dataclass(frozen=True)
class Transfer:
    """What the checks look at: the asker's arguments, both sides, and the decided fates."""

    source: SourceWeights
    matching: Matching
    fates: Sequence[TensorFate]
    target_classes: tuple[str, ...] | None
    class_map: Sequence[Sequence[str]]
    new_class_init: str | Sequence[Sequence[str]]


def shown_keep(keep: str | tuple[str, ...]) -> str:
    """A KEEP as it is written in a config."""
    return keep if isinstance(keep, str) else ",".join(keep)


def raise_all(problems: Sequence[Problem]) -> None:
    """Raises one TransferPlanError that lists every problem, if there is any."""
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{i}. {p.text}\n   -> {p.remedy}" for i, p in enumerate(problems, 1)]
    error = TransferPlanError(
        f"The transfer would not do what the configuration says ({count}):\n"
        + "\n".join(lines)
        + "\nMODEL.TRANSFER.STRICT False turns these into warnings."
    )
    error.problems = tuple(str(p) for p in problems)  # type: ignore[attr-defined]
    raise error
