"""Which weights move, tensor by tensor, as a value: computed, checked, shown, then applied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.checks import Transfer, as_options, find_problems
from transfer_maskrcnn.surgery.classes import ClassMap, ClassRow, NewClassInit, match_classes
from transfer_maskrcnn.surgery.fates import FATES, TensorFate, decide, describe_target, match
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.parts import ClassAxis, group_of, parse_keep, part_of
from transfer_maskrcnn.surgery.words import Code, How, Problem, Reason, listing
from transfer_maskrcnn.text import WIDTH, few, wrapped

VERSION = 2

_MANY_EQUAL = 8
_NAME, _FATE, _TENSORS, _COUNT = 44, 11, 7, 14


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
    notes: tuple[Problem, ...]

    def check(self, strict: bool = True) -> tuple[str, ...]:
        """Raises one TransferPlanError that lists all problems, or returns them if not strict."""
        if strict and self.problems:
            error = TransferPlanError(listing(self.problems))
            error.problems = self.problems
            raise error
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
        """Everything, with codes and sentences; :meth:`from_json` gives an equal plan back."""
        content = {"version": VERSION, **asdict(self), **self.summary(), "parts": self.parts()}
        for key in ("problems", "notes"):
            pairs = zip(content[key], getattr(self, key), strict=True)
            content[key] = [{**plain, "text": p.text, "remedy": p.remedy} for plain, p in pairs]
        content["classes"] = [{**asdict(c), "words": c.how.sentence()} for c in self.classes]
        del content["tensors"]
        tensors = (json.dumps({**asdict(t), "reason": t.reason}) for t in self.tensors)
        lines = ",\n".join(f"  {tensor}" for tensor in tensors)
        return f'{json.dumps(content, indent=1)[:-2]},\n "tensors": [\n{lines}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> TransferPlan:
        """Raises TransferPlanError where ``text`` is no plan of this version."""
        try:
            content = json.loads(text)
            if content.get("version") != VERSION:
                raise ValueError(f"version {content.get('version')}, not {VERSION}")
            return _from_content(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransferPlanError(f"No transfer plan: {error}. Write it anew.") from error


def _from_content(content: dict[str, Any]) -> TransferPlan:
    def names(key: str) -> Any:
        value = content[key]
        return tuple(value) if isinstance(value, list) else value

    def found(key: str) -> tuple[Problem, ...]:
        return tuple(Problem(Code.of(p["code"]), p["data"]) for p in content[key])

    return TransferPlan(
        *(names("keep"), content["source"], content["naming"]),
        *(names("source_classes"), names("target_classes"), _init(content["new_class_init"])),
        tuple(
            ClassRow(c["target"], c["source"], How.of(c["how"]), tuple(c["averaged"]))
            for c in content["classes"]
        ),
        tuple(_fate(tensor) for tensor in content["tensors"]),
        *(found("problems"), found("notes")),
    )


def _init(value: NewClassInit) -> str | tuple[tuple[str, ...], ...]:
    return value if isinstance(value, str) else tuple(tuple(pair) for pair in value)


def _fate(content: dict[str, Any]) -> TensorFate:
    shapes = {k: v and tuple(v) for k, v in content.items() if k.endswith("_shape")}
    axes = tuple(ClassAxis(**axis) for axis in content["axes"])
    rest = {k: v for k, v in content.items() if k != "reason"}
    return TensorFate(**{**rest, **shapes, "code": Reason.of(content["code"]), "axes": axes})


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
    parsed = parse_keep(keep)
    names = None if target_classes is None else tuple(target_classes)
    rows: tuple[ClassRow, ...] = ()
    wrong: tuple[Problem, ...] = ()
    if parsed == "class_rows" and source.classes is not None and names is not None:
        rows, wrong = match_classes(source.classes, names, class_map, new_class_init)
    matching = match(source.tensors, source.renamed, describe_target(target), parsed)
    if matching.counts != (len(source.classes or ()), len(names or ())):
        rows = ()  # names that do not fit the classifier say nothing about its rows
    fates = decide(matching, sum(bool(row.source or row.averaged) for row in rows))
    transfer = Transfer(source, matching, fates, names, class_map, new_class_init)
    return TransferPlan(
        *(parsed, source.path, source.naming, source.classes, names, _init(new_class_init)),
        *(rows, fates, find_problems(transfer) + wrong, _notes(transfer)),
    )


def _notes(t: Transfer) -> tuple[Problem, ...]:
    absent: dict[str, int] = {}
    for fate in t.of(Reason.NO_PART, Reason.NO_TENSOR):
        part = part_of(fate.target or "")
        absent[part] = absent.get(part, 0) + fate.parameters
    notes = [
        Problem(Code.STAYS_INITIALISED, {"count": count, "part": part})
        for part, count in absent.items()
        if count
    ]
    settings = t.matching.target.settings
    unseen = {k: v for k, v in t.source.expects.items() if k not in settings}
    if unseen and any(fate.fate == "kept" for fate in t.fates):
        data = {"naming": t.source.naming, "settings": as_options(unseen)}
        notes.append(Problem(Code.WORKS_WITH, data))
    return tuple(notes)


def _row(name: str, fate: str, tensors: str, count: str) -> str:
    """One line of the table; a name that is too long loses its middle."""
    if len(name) > _NAME:
        name = f"{name[:12]}...{name[-(_NAME - 15) :]}"
    return f"{name:<{_NAME}} {fate:<{_FATE}} {tensors:>{_TENSORS}} {count:>{_COUNT}}"


def plan_table(plan: TransferPlan) -> str:
    """See :meth:`TransferPlan.table`."""
    groups: dict[tuple[str, str], list[int]] = {}
    told: dict[str, tuple[list[str], list[str]]] = {}
    for tensor in plan.tensors:
        group = group_of(tensor.target or tensor.source or "")
        total = groups.setdefault((group, tensor.fate), [0, 0])
        total[0] += 1
        total[1] += tensor.moved if tensor.fate == "rows" else tensor.parameters
        if tensor.fate != "kept":
            fates, where = told.setdefault(tensor.reason, ([], []))
            fates += [tensor.fate] if tensor.fate not in fates else []
            where += [group] if group not in where else []
    lines = [f"weights: {plan.source or 'none'}", _row("part", "fate", "tensors", "parameters")]
    lines.append("-" * WIDTH)
    lines += [_row(name, fate, str(n), f"{count:,}") for (name, fate), (n, count) in groups.items()]
    lines.append("-" * WIDTH)
    for fate, sums in plan.totals().items():
        if sums["tensors"]:
            count = sums["moved"] if fate == "rows" else sums["parameters"]
            lines.append(_row("total", fate, str(sums["tensors"]), f"{count:,}"))
    share = int(plan.loaded_fraction() * 1000) / 10  # 100.0% only if nothing is missing
    lines.append(f"{share:.1f}% of the target's parameters are loaded from the source.")
    sentences = [
        f"{' and '.join(fates)}: {few(where, 3)}: {reason}"
        for reason, (fates, where) in told.items()
    ]
    # what STAYS_INITIALISED says stands among the reasons already
    notes = [f"note: {n}" for n in plan.notes if n.code is not Code.STAYS_INITIALISED]
    lines += [wrapped(text) for text in (*sentences, *_classes(plan), *notes)]
    return "\n".join(lines)


def _classes(plan: TransferPlan) -> list[str]:
    """A sentence a class that has a source; one for many of equal name, and for all the others."""
    equal = [repr(row.target) for row in plan.classes if row.how is How.EQUAL]
    many = len(equal) > _MANY_EQUAL
    named = [f"class {few(equal, _MANY_EQUAL)}: own rows, {How.EQUAL.sentence()}"] if many else []
    others: dict[str, list[str]] = {}
    for row in plan.classes:
        if row.averaged:
            parents = ", ".join(map(repr, row.averaged))
            named.append(f"class {row.target!r}: mean of the rows of {parents}, class map")
        elif row.source is None:
            others.setdefault(row.how.sentence(), []).append(repr(row.target))
        elif not (many and row.how is How.EQUAL):
            named.append(f"class {row.target!r}: rows of {row.source!r}, {row.how.sentence()}")
    return named + [f"class {few(names, 8)}: {how}" for how, names in others.items()]
