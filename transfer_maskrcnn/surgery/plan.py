"""Which weights move, tensor by tensor, as a value: computed, checked, shown, then applied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.checks import as_options, find_problems
from transfer_maskrcnn.surgery.classes import ClassMap, ClassRow, NewClassInit, match_classes
from transfer_maskrcnn.surgery.fates import FATES, TensorFate, decide, describe_target, match
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import group_of, parse_keep
from transfer_maskrcnn.surgery.words import Code, Problem, listing
from transfer_maskrcnn.text import WIDTH, few, listed, wrapped

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
    new_class_init: NewClassInit
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
            none = {"transferred": 0, "initialised": 0, "dropped": 0}
            sums = parts.setdefault(group_of(tensor.name), none)
            sums["transferred"] += tensor.moved
            rest = "dropped" if tensor.target is None else "initialised"
            sums[rest] += tensor.parameters - tensor.moved
        return {part: sums for part, sums in parts.items() if any(sums.values())}

    def summary(self) -> dict[str, Any]:
        """The plan in a few plain values, for a checkpoint's metadata."""
        return {
            "keep": self.keep if isinstance(self.keep, str) else list(self.keep),
            "source": self.source,
            "loaded_fraction": round(self.loaded_fraction(), 4),
            "totals": self.totals(),
        }

    def to_json(self) -> str:
        """Everything, with codes and sentences, one tensor a line."""
        content = {**asdict(self), **self.summary(), "parts": self.parts()}
        for key in ("problems", "notes"):
            found = getattr(self, key)
            content[key] = [{**asdict(p), "text": p.text, "remedy": p.remedy} for p in found]
        content["classes"] = [{**asdict(row), "words": row.words} for row in self.classes]
        del content["tensors"]
        tensors = (json.dumps({**asdict(t), "reason": t.reason}) for t in self.tensors)
        lines = ",\n".join(f"  {tensor}" for tensor in tensors)
        return f'{json.dumps(content, indent=1)[:-2]},\n "tensors": [\n{lines}\n ]\n}}\n'

    def table(self) -> str:
        """The plan for an 80-column terminal: a line a group, totals, reasons."""
        counts: dict[tuple[str, str], list[int]] = {}
        told: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for tensor in self.tensors:
            group, fate = group_of(tensor.name), tensor.fate
            for key in ((group, fate), ("total", fate)):
                sums = counts.setdefault(key, [0, 0])
                sums[0] += 1
                sums[1] += tensor.moved if fate == "rows" else tensor.parameters
            if fate != "kept":
                fates, groups = told.setdefault(tensor.reason, ({}, {}))
                fates[fate] = groups[group] = None
        rows = {k: _row(*k, str(n), f"{count:,}") for k, (n, count) in counts.items()}
        lines = [f"weights: {self.source or 'none'}", _row("part", "fate", "tensors", "parameters")]
        lines += ["-" * WIDTH, *(row for key, row in rows.items() if key[0] != "total")]
        lines += ["-" * WIDTH, *(row for key, row in rows.items() if key[0] == "total")]
        share = int(self.loaded_fraction() * 1000) / 10  # 100.0% only if nothing is missing
        lines.append(f"{share:.1f}% of the target's parameters are loaded from the source.")
        sentences = [
            f"{listed(fates)}: {few(list(groups), 3)}: {reason}"
            for reason, (fates, groups) in told.items()
        ]
        classes: dict[str, list[str]] = {}
        for row in self.classes:
            classes.setdefault(row.words, []).append(repr(row.target))
        sentences += [f"class {few(names, 8)}: {words}" for words, names in classes.items()]
        sentences += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *map(wrapped, sentences)])


def _row(name: str, fate: str, tensors: str, count: str) -> str:
    """One line of the table; a name that is too long loses its middle."""
    if len(name) > _NAME:
        name = f"{name[:12]}...{name[-(_NAME - 15) :]}"
    return f"{name:<{_NAME}} {fate:<{_FATE}} {tensors:>{_TENSORS}} {count:>{_COUNT}}"


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
    if parsed != "class_rows":
        init = () if new_class_init == "default" else new_class_init
        given = {"CLASS_MAP": class_map, "NEW_CLASS_INIT": init}
        unused = [key for key, value in given.items() if value]
        wrong = tuple(Problem(Code.UNUSED, {"key": key, "keep": parsed}) for key in unused)
    elif source.classes is not None and names is not None:
        rows, wrong = match_classes(source.classes, names, class_map, new_class_init)
    matching = match(source, describe_target(target), parsed, names)
    if matching.counts != (len(source.classes or ()), len(names or ())):
        rows = ()  # names that do not fit the classifier say nothing about its rows
    fates = decide(matching, sum(bool(row.source or row.averaged) for row in rows))
    unseen = {k: v for k, v in source.expects.items() if k not in matching.target.settings}
    note = Problem(Code.WORKS_WITH, {"naming": source.naming, "settings": as_options(unseen)})
    return TransferPlan(
        *(parsed, source.path, source.naming, source.classes, names, new_class_init, rows, fates),
        problems=find_problems(matching, fates) + wrong,
        notes=(note,) if unseen and any(fate.fate == "kept" for fate in fates) else (),
    )
