"""Which weights move, tensor by tensor, as a value: computed, checked, shown, then applied."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.checks import find_problems
from transfer_maskrcnn.surgery.classes import ClassMap, ClassRow, NewClassInit, match_classes
from transfer_maskrcnn.surgery.fates import FATES, TensorFate, decide, match
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.norms import is_group_norm
from transfer_maskrcnn.surgery.parts import ClassAxis, group_of, parse_keep, part_of
from transfer_maskrcnn.surgery.problems import Problem, Transfer, raise_all
from transfer_maskrcnn.surgery.table import plan_table
from transfer_maskrcnn.surgery.target import Target, describe_target

VERSION = 1


@dataclass(frozen=True)
class TransferPlan:
    """The fate of every tensor of both sides, each named exactly once, and what is wrong with it.

    Attributes:
        keep: the preset, or module prefixes.
        source: path of the weight file; ``naming``: whose names it used.
        source_classes, target_classes: class names, or None where unknown.
        new_class_init: what rows of unmatched classes start from, or (new class, start) pairs.
        classes: where each target class's rows come from; empty below ``class_rows``.
        tensors: the target's tensors in the model's order, then the source's that have no place.
        problems: what strict mode refuses.
        notes: what is worth knowing and nobody's mistake.
    """

    keep: str | tuple[str, ...]
    source: str
    naming: str
    source_classes: tuple[str, ...] | None
    target_classes: tuple[str, ...] | None
    new_class_init: str | tuple[tuple[str, ...], ...]
    classes: tuple[ClassRow, ...]
    tensors: tuple[TensorFate, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def check(self, strict: bool = True) -> tuple[str, ...]:
        """Raises one TransferPlanError that lists all problems, or returns them if not strict."""
        if strict:
            raise_all(self.problems)
        return tuple(str(problem) for problem in self.problems)

    def totals(self) -> dict[str, dict[str, int]]:
        """Fate -> number of tensors, parameters, and parameters that come from the source."""
        totals = {fate: {"tensors": 0, "parameters": 0, "moved": 0} for fate in FATES}
        for tensor in self.tensors:
            total = totals[tensor.fate]
            total["tensors"] += 1
            total["parameters"] += tensor.parameters
            total["moved"] += tensor.moved
        return totals

    def loaded_fraction(self) -> float:
        """The share of the target's parameters that come from the source, 0 to 1."""
        mine = [tensor for tensor in self.tensors if tensor.target is not None]
        return sum(t.moved for t in mine) / max(sum(t.parameters for t in mine), 1)

    def parts(self) -> dict[str, dict[str, int]]:
        """Part -> parameters that are transferred to it, initialised, and dropped by the source."""
        parts: dict[str, dict[str, int]] = {}
        for tensor in self.tensors:
            sums = parts.setdefault(
                group_of(tensor.target or tensor.source or ""),
                {"transferred": 0, "initialised": 0, "dropped": 0},
            )
            if tensor.target is None:
                sums["dropped"] += tensor.parameters
            else:
                sums["transferred"] += tensor.moved
                sums["initialised"] += tensor.parameters - tensor.moved
        return {part: sums for part, sums in parts.items() if any(sums.values())}

    def summary(self) -> dict[str, Any]:
        """The plan in a few plain values, for a checkpoint's metadata."""
        return {
            "keep": self.keep if isinstance(self.keep, str) else list(self.keep),
            "source": self.source,
            "loaded_fraction": round(self.loaded_fraction(), 4),
            "totals": self.totals(),
        }

    def table(self) -> str:
        """The plan for an 80-column terminal: a line a group, totals, reasons."""
        return plan_table(self)

    def to_json(self) -> str:
        """Everything, readable; :meth:`from_json` gives an equal plan back."""
        content = {"version": VERSION, **asdict(self), **self.summary(), "parts": self.parts()}
        tensors = ",\n".join(f"  {json.dumps(tensor)}" for tensor in content.pop("tensors"))
        return f'{json.dumps(content, indent=1)[:-2]},\n "tensors": [\n{tensors}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> "TransferPlan":
        """Raises TransferPlanError where ``text`` is no plan of this version."""
        try:
            content = json.loads(text)
            if content.get("version") != VERSION:
                raise ValueError(f"version {content.get('version')}, not {VERSION}")
            return _from_content(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransferPlanError(f"No transfer plan: {error}. Write it anew.") from error


def _from_content(content: dict[str, Any]) -> TransferPlan:
    def names(key: str) -> tuple[str, ...] | None:
        return None if content[key] is None else tuple(content[key])

    keep = content["keep"]
    return TransferPlan(
        keep if isinstance(keep, str) else tuple(keep),
        content["source"],
        content["naming"],
        names("source_classes"),
        names("target_classes"),
        _init(content["new_class_init"]),
        tuple(_class_row(row) for row in content["classes"]),
        tuple(_fate(tensor) for tensor in content["tensors"]),
        tuple(Problem(**problem) for problem in content["problems"]),
        tuple(content["notes"]),
    )


def _init(value: NewClassInit) -> str | tuple[tuple[str, ...], ...]:
    return value if isinstance(value, str) else tuple(tuple(pair) for pair in value)


def _class_row(content: dict[str, Any]) -> ClassRow:
    return ClassRow(**{**content, "averaged": tuple(content.get("averaged", ()))})


def _fate(content: dict[str, Any]) -> TensorFate:
    shapes = {k: v and tuple(v) for k, v in content.items() if k.endswith("_shape")}
    axes = tuple(ClassAxis(**axis) for axis in content["axes"])
    return TensorFate(**{**content, **shapes, "axes": axes})


def plan_transfer(
    source: SourceWeights,
    target: nn.Module | Mapping[str, Tensor],
    *,
    keep: str | Sequence[str] = "all_but_predictors",
    target_classes: Sequence[str] | None = None,
    class_map: ClassMap = (),
    new_class_init: NewClassInit = "default",
) -> TransferPlan:
    """Decides the fate of every tensor of both sides. Pure: nothing is written, no number drawn.

    Args:
        source: what :func:`load_weights` returned.
        target: the model (frozen parameters are found by ``requires_grad``), or its state dict.
        keep: a preset of ``random_init``, ``backbone``, ``backbone_fpn``, ``backbone_fpn_rpn``,
            ``all_but_predictors``, ``class_rows``; or module prefixes, as a list or "a.b,c".
        target_classes: the target's class names, in order.
        class_map: (source class, target class) pairs for ``class_rows``. Several targets of one
            source each get its rows; a target of several sources gets the mean of theirs, in every
            predictor, so that its logits are the means of their logits.
        new_class_init: for target classes without a source class: "default" (as detectron2
            initialises), "mean" (of all source rows), or the name of a source class; or (new class,
            one of these) pairs, other new classes being "default".

    Returns:
        a plan. What is wrong with it stands in ``problems``; :meth:`TransferPlan.check` raises.
    """
    parsed, described = parse_keep(keep), describe_target(target)
    names = None if target_classes is None else tuple(target_classes)
    rows: tuple[ClassRow, ...] = ()
    wrong: tuple[Problem, ...] = ()
    if parsed == "class_rows" and source.classes is not None and names is not None:
        rows, wrong = match_classes(source.classes, names, class_map, new_class_init)
    group_norm = is_group_norm(source.tensors, source.renamed)
    matching = match(source.tensors, described, parsed, group_norm)
    if matching.counts != (len(source.classes or ()), len(names or ())):
        rows = ()  # names that do not fit the classifier say nothing about its rows
    fates = decide(matching, sum(bool(row.source or row.averaged) for row in rows))
    transfer = Transfer(source, matching, fates, names, class_map, new_class_init)
    return TransferPlan(
        parsed,
        source.path,
        source.naming,
        source.classes,
        names,
        _init(new_class_init),
        rows,
        fates,
        find_problems(transfer) + wrong,
        _notes(source, described, fates),
    )


def _notes(source: SourceWeights, target: Target, fates: Sequence[TensorFate]) -> tuple[str, ...]:
    notes = []
    absent: dict[str, int] = {}
    for fate in fates:
        if fate.target and fate.reason.startswith("the source has no "):
            part = part_of(fate.target)
            absent[part] = absent.get(part, 0) + fate.parameters
    notes += [
        f"{count:,} parameters of the {part} stay initialised: the source has none for them"
        for part, count in absent.items()
        if count
    ]
    unseen = {k: v for k, v in source.expects.items() if k not in target.settings}
    if unseen and any(fate.fate == "kept" for fate in fates):
        settings = " ".join(f"{k} {str(v).replace(' ', '')}" for k, v in unseen.items())
        notes.append(f"weights with {source.naming} names work with {settings}")
    return tuple(notes)
