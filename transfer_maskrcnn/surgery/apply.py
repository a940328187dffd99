"""A plan onto a model: in place, under ``no_grad``, drawing no global random number."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.fates import TensorFate, align
from transfer_maskrcnn.surgery.fresh import fresh_tensor
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.parts import ClassAxis, part_of, unwrapped
from transfer_maskrcnn.surgery.plan import TransferPlan
from transfer_maskrcnn.surgery.words import How


def apply_plan(plan: TransferPlan, source: SourceWeights, model: nn.Module) -> tuple[str, ...]:
    """Writes what the plan moves into the model's own tensors, so an optimizer keeps its hold.

    Values are cast to each target tensor's dtype and device. Everything is verified before the
    first write. A trainer's ``resume_or_load`` may already have copied the file by position; where
    a tensor that must not move holds the source's numbers, it gets a fresh initialisation, the
    same in every process.

    Args:
        plan: made for this source and this model.
        source: the weights; only read.
        model: may be wrapped in DistributedDataParallel.

    Returns:
        the target tensors that were freed from preloaded numbers.

    Raises:
        TransferPlanError: the plan was made for other tensors, or a preloaded tensor is of a kind
            that cannot be initialised again. The model is unchanged.
    """
    state = {k: v for k, v in unwrapped(model).state_dict().items() if isinstance(v, Tensor)}
    _verify(plan, source, state)
    anew = _initialised_again(_preloaded(plan, source, state), state)
    with torch.no_grad():
        for name, tensor in anew.items():
            state[name].copy_(tensor)
        for fate in plan.tensors:
            if fate.target is None or fate.source is None:
                continue
            values = source.tensors[fate.source]
            if fate.fate == "kept":
                state[fate.target].copy_(values)
            else:
                _copy_rows(state[fate.target], values, fate, plan)
    return tuple(anew)


def _verify(plan: TransferPlan, source: SourceWeights, state: dict[str, Tensor]) -> None:
    mine = {f.target: f.target_shape for f in plan.tensors if f.target is not None}
    theirs = {f.source: f.source_shape for f in plan.tensors if f.source is not None}
    sides = (("model", mine, state), ("source", theirs, source.tensors))
    for side, planned, tensors in sides:
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        wrong = sorted(k for k in planned.keys() | found.keys() if planned.get(k) != found.get(k))
        if wrong:
            raise TransferPlanError(
                f"The plan was made for another {side}: {wrong[0]} has the shape "
                f"{found.get(wrong[0])}, planned was {planned.get(wrong[0])} ({len(wrong)} tensors "
                "differ). Plan again with plan_transfer; nothing was changed."
            )


def _preloaded(plan: TransferPlan, source: SourceWeights, state: dict[str, Tensor]) -> list[str]:
    """Target tensors that should be as built, but hold the source's tensor bit by bit."""
    partner, _ = align(source.tensors, state)
    found = []
    for fate in plan.tensors:
        name = fate.target
        if (
            name is None
            or fate.fate == "kept"
            or name not in partner
            or part_of(name) == "settings"
        ):
            continue
        here, there = state[name], source.tensors[partner[name]]
        if here.shape == there.shape and torch.equal(here, there.to(here.device, here.dtype)):
            found.append(name)
    return found


def _initialised_again(names: Sequence[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """New values for the preloaded tensors that differ from what initialisation gives anyway."""
    anew: dict[str, Tensor] = {}
    for name in names:
        tensor = fresh_tensor(name, state)
        if tensor is None:
            raise TransferPlanError(
                f"{name} must not move, but the source's numbers were loaded into it before the "
                "surgery, and its kind of layer cannot be initialised again. Set MODEL.WEIGHTS '' "
                "for the trainer and give the file to WeightSurgeryHook alone."
            )
        if not torch.equal(tensor, state[name].cpu().float()):
            anew[name] = tensor
    return anew


def _copy_rows(target: Tensor, source: Tensor, fate: TensorFate, plan: TransferPlan) -> None:
    """Copies class by class along each axis that depends on classes."""
    places: list[Tensor] = []
    for axis in fate.axes:
        source, place = _pick(source, target.shape[axis.axis], axis, plan)
        places.append(place.to(target.device))
    source = source.to(target.device, target.dtype)
    if len(places) == 1:
        target.index_copy_(fate.axes[0].axis, places[0], source)
    else:
        target[places[0][:, None], places[1][None, :]] = source


def _pick(source: Tensor, size: int, axis: ClassAxis, plan: TransferPlan) -> tuple[Tensor, Tensor]:
    """The slices of ``source`` along ``axis`` that move, and their places in the target."""
    take: list[int] = list(range(axis.before))
    place: list[int] = list(range(axis.before))
    names = list(plan.source_classes or ())
    for i, row in enumerate(plan.classes):
        if row.source is not None:
            take += _block(axis, names.index(row.source))
            place += _block(axis, i)
    for i in range(axis.after):
        take.append(source.shape[axis.axis] - axis.after + i)
        place.append(size - axis.after + i)
    picked = [source.index_select(axis.axis, torch.tensor(take, dtype=torch.long))]
    means = [(i, row) for i, row in enumerate(plan.classes) if row.how in (How.MEAN, How.MERGED)]
    if means:
        picked[0] = picked[0].float()
        whole = source.narrow(axis.axis, axis.before, axis.per_class * len(names)).float()
        blocks = whole.unflatten(axis.axis, (len(names), axis.per_class))
        for i, row in means:
            members = [names.index(name) for name in row.averaged] or range(len(names))
            chosen = blocks.index_select(axis.axis, torch.tensor(members))
            picked.append(chosen.mean(axis.axis))
            place += _block(axis, i)
    return torch.cat(picked, axis.axis), torch.tensor(place, dtype=torch.long)


def _block(axis: ClassAxis, index: int) -> list[int]:
    start = axis.before + index * axis.per_class
    return list(range(start, start + axis.per_class))
