"""A plan onto a model, in place, under ``no_grad``, drawing no global random number; and a model
into a file that knows what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from transfer_maskrcnn.errors import TransferPlanError, WeightFileError
from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.surgery.classes import ClassAxis
from transfer_maskrcnn.surgery.fates import TensorFate
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.names import align, part_of, unwrapped
from transfer_maskrcnn.surgery.plan import TransferPlan
from transfer_maskrcnn.surgery.read import METADATA_KEY
from transfer_maskrcnn.surgery.words import How

_SEED = 20170320  # any constant: every process must draw the same numbers


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
            if fate.target is None or fate.source is None:
                continue
            values = source.tensors[fate.source]
            if fate.fate == "kept":
                state[fate.target].copy_(values)
            else:
                _copy_rows(state[fate.target], values, fate, plan)
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


def write_weights(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Writes weights and what they are, as .pth or .safetensors by the name's end.

    The file is complete or absent, never half written. The .pth is a dict with ``model``, which a
    stock ``DetectionCheckpointer`` loads by exact names.

    Args:
        path: where to; replaced in one step.
        tensors: name -> tensor, for example ``model.state_dict()``.
        metadata: plain values, with the class names in order under ``thing_classes``.

    Raises:
        WeightFileError: another ending.
        TypeError: the metadata are not plain.
    """
    path, text = Path(path), json.dumps(dict(metadata))
    if path.suffix not in (".pth", ".safetensors"):
        raise WeightFileError(f"{path}: weights are written as .pth or .safetensors.")
    plain = {name: tensor.detach() for name, tensor in tensors.items()}
    with atomic_path(path) as unfinished:
        if path.suffix == ".pth":
            torch.save({"model": plain, METADATA_KEY: json.loads(text)}, unfinished)
        else:
            # a name each, not shared memory, is what the format stores
            own = {name: tensor.cpu().clone().contiguous() for name, tensor in plain.items()}
            save_file(own, unfinished, metadata={"format": "pt", METADATA_KEY: text})
