"""Which weights move, tensor by tensor, as a value: computed, checked, shown, then applied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.checks import as_options, find_problems, groups_of
from transfer_maskrcnn.surgery.classes import ClassMap, ClassRow, NewClassInit, match_classes
from transfer_maskrcnn.surgery.fates import FATES, TensorFate, decide, describe_target, match
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import (
    ClassAxis,
    align,
    group_of,
    grouped,
    parse_keep,
    part_of,
    unwrapped,
)
from transfer_maskrcnn.surgery.words import Code, How, Problem, listing
from transfer_maskrcnn.text import WIDTH, few, listed, wrapped

_NAME, _FATE, _TENSORS, _COUNT = 44, 11, 7, 14
_SEED = 20170320  # any constant: every process must draw the same numbers


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
        """All problems, where they are no error.

        Raises:
            TransferPlanError: strict, and there are some; it lists all of them.
        """
        if strict and self.problems:
            error = TransferPlanError(listing(self.problems))
            error.problems = self.problems
            raise error
        return tuple(str(problem) for problem in self.problems)

    def totals(self) -> dict[str, dict[str, int]]:
        """Fate -> number of tensors, parameters, and parameters that come from the source."""
        found = grouped(self.tensors, lambda tensor: tensor.fate)
        return {fate: _sums(found.get(fate, ())) for fate in FATES}

    def loaded_fraction(self) -> float:
        """The share of the target's parameters that come from the source, 0 to 1."""
        mine = [tensor for tensor in self.tensors if tensor.target is not None]
        return sum(t.moved for t in mine) / max(sum(t.parameters for t in mine), 1)

    def parts(self) -> dict[str, dict[str, int]]:
        """Part -> parameters that are transferred to it, initialised, and dropped by the source."""
        found = grouped(self.tensors, lambda tensor: group_of(tensor.name))
        parts = {
            part: {
                "transferred": sum(t.moved for t in tensors),
                "initialised": sum(t.parameters - t.moved for t in tensors if t.target),
                "dropped": sum(t.parameters for t in tensors if not t.target),
            }
            for part, tensors in found.items()
        }
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
        content = {
            **asdict(self),
            **self.summary(),
            "parts": self.parts(),
            "problems": [problem.to_json() for problem in self.problems],
            "notes": [note.to_json() for note in self.notes],
            "classes": [{**asdict(row), "words": row.words} for row in self.classes],
        }
        del content["tensors"]
        tensors = (json.dumps({**asdict(t), "reason": t.reason}) for t in self.tensors)
        lines = ",\n".join(f"  {tensor}" for tensor in tensors)
        return f'{json.dumps(content, indent=1)[:-2]},\n "tensors": [\n{lines}\n ]\n}}\n'

    def table(self) -> str:
        """The plan for an 80-column terminal: a line a group, totals, reasons."""
        groups = grouped(self.tensors, lambda tensor: (group_of(tensor.name), tensor.fate))
        fates = grouped(self.tensors, lambda tensor: ("total", tensor.fate))
        lines = [f"weights: {self.source or 'none'}", _row("part", "fate", "tensors", "parameters")]
        for part in (groups, fates):
            lines.append("-" * WIDTH)
            for (name, fate), tensors in part.items():
                sums = _sums(tensors)
                count = sums["moved" if fate == "rows" else "parameters"]
                lines.append(_row(name, fate, str(len(tensors)), f"{count:,}"))
        share = int(self.loaded_fraction() * 1000) / 10  # 100.0% only if nothing is missing
        lines.append(f"{share:.1f}% of the target's parameters are loaded from the source.")
        told = grouped((t for t in self.tensors if t.fate != "kept"), lambda tensor: tensor.reason)
        sentences = [
            f"{listed(dict.fromkeys(t.fate for t in own))}: {few(groups_of(own), 3)}: {reason}"
            for reason, own in told.items()
        ]
        classes = grouped(self.classes, lambda row: row.words)
        sentences += [
            f"class {few([repr(row.target) for row in rows], 8)}: {words}"
            for words, rows in classes.items()
        ]
        sentences += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *map(wrapped, sentences)])


def _sums(tensors: Sequence[TensorFate]) -> dict[str, int]:
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.parameters for tensor in tensors),
        "moved": sum(tensor.moved for tensor in tensors),
    }


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


def apply_plan(
    plan: TransferPlan,
    source: SourceWeights,
    model: nn.Module,
    build: Callable[[], nn.Module] | None = None,
) -> tuple[str, ...]:
    """Writes what the plan moves into the model's own tensors, so an optimizer keeps its hold.

    Values are cast to each target tensor's dtype and device. Everything is verified before the
    first write. A trainer's ``resume_or_load`` may already have copied the file by position; where
    a tensor that must not move holds the source's numbers, it gets those of a second model, the
    same in every process.

    Args:
        plan: made for this source and this model.
        source: the weights; only read.
        model: may be wrapped in DistributedDataParallel.
        build: makes a model like it, with fresh weights; None: nobody can.

    Returns:
        the target tensors that were freed from preloaded numbers.

    Raises:
        TransferPlanError: the plan was made for other tensors, or there are preloaded tensors, and
            no ``build``. The model is unchanged.
    """
    state = {k: v for k, v in unwrapped(model).state_dict().items() if isinstance(v, Tensor)}
    _verify("model", {f.target: f.target_shape for f in plan.tensors if f.target}, state)
    _verify("source", {f.source: f.source_shape for f in plan.tensors if f.source}, source.tensors)
    anew = _initialised_again(_preloaded(plan, source, state), build)
    with torch.no_grad():
        for name, tensor in anew.items():
            state[name].copy_(tensor)
        for fate in plan.tensors:
            if fate.target and fate.source:
                _move(state[fate.target], source.tensors[fate.source], fate, plan)
    return tuple(anew)


def _verify(side: str, planned: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(k for k in planned.keys() | found.keys() if planned.get(k) != found.get(k))
    if wrong:
        raise TransferPlanError(
            f"The plan was made for another {side}: {wrong[0]} has the shape "
            f"{found.get(wrong[0])}, planned was {planned.get(wrong[0])} ({len(wrong)} tensors "
            "differ). Plan again with plan_transfer; nothing was changed."
        )


def _preloaded(plan: TransferPlan, source: SourceWeights, state: Mapping[str, Tensor]) -> list[str]:
    """Target tensors that should be as built, or in part, but hold the source's tensor bit by bit.

    None, where all of them are constant: zeros are what initialisation gives, too.
    """
    partner, _ = align(source.tensors, state)
    stays = [
        fate.name
        for fate in plan.tensors
        if fate.name in partner
        and (fate.fate == "initialised" or (fate.fate == "rows" and fate.moved < fate.parameters))
    ]
    pairs = {k: (state[k], source.tensors[partner[k]]) for k in stays if part_of(k) != "settings"}
    equal = [
        name
        for name, (here, there) in pairs.items()
        if here.shape == there.shape and torch.equal(here, there.to(here.device, here.dtype))
    ]
    telling = (state[name] for name in equal)
    return equal if any((t != t.flatten()[:1]).any() for t in telling) else []


def _initialised_again(
    names: list[str], build: Callable[[], nn.Module] | None
) -> dict[str, Tensor]:
    if not names:
        return {}
    if build is None:
        raise TransferPlanError(
            f"{names[0]} must not move, but the source's numbers were loaded into it before the "
            "surgery, and this trainer has no build_model to initialise it again. Set "
            "MODEL.WEIGHTS '' for the trainer and give the file to WeightSurgeryHook alone."
        )
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        fresh = build().state_dict()
    return {name: fresh[name] for name in names}


def _move(target: Tensor, source: Tensor, fate: TensorFate, plan: TransferPlan) -> None:
    """Copies the whole, or class by class along each axis that depends on classes."""
    places: list[Tensor] = []
    for axis in fate.axes:
        source, place = _pick(source, target.shape[axis.axis], axis, plan)
        places.append(place.to(target.device))
    source = source.to(target.device, target.dtype)
    if not places:
        target.copy_(source)
    elif len(places) == 1:
        target.index_copy_(fate.axes[0].axis, places[0], source)
    else:
        target[places[0][:, None], places[1][None, :]] = source


def _pick(source: Tensor, size: int, axis: ClassAxis, plan: TransferPlan) -> tuple[Tensor, Tensor]:
    """The slices of ``source`` along ``axis`` that move, and their places in the target."""
    names = list(plan.source_classes or ()) if plan.classes else []
    source = source.to(torch.promote_types(source.dtype, torch.float32))  # for means
    at, per_class, last = axis.axis, axis.per_class, source.shape[axis.axis] - axis.after
    blocks = source.narrow(at, axis.before, per_class * len(names))
    blocks = blocks.unflatten(at, (len(names), per_class))
    picked = [source.narrow(at, 0, axis.before), source.narrow(at, last, axis.after)]
    place = [*range(axis.before), *range(size - axis.after, size)]
    for i, row in enumerate(plan.classes):
        if row.how is not How.NEW:
            known = row.averaged or ((row.source,) if row.source is not None else ())
            members = [names.index(name) for name in known] or list(range(len(names)))
            picked.append(blocks.index_select(at, torch.tensor(members)).mean(at))
            start = axis.before + i * per_class
            place += range(start, start + per_class)
    return torch.cat(picked, at), torch.tensor(place, dtype=torch.long)
