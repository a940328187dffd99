"""Everything that strict mode refuses, each with its remedy. Nothing is raised here."""

import difflib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from transfer_maskrcnn.surgery.backbone import backbone_problem
from transfer_maskrcnn.surgery.class_checks import (
    class_counts,
    class_names,
    rows_apart,
    unused_class_arguments,
)
from transfer_maskrcnn.surgery.fates import TensorFate
from transfer_maskrcnn.surgery.parts import PRESETS, group_of, is_statistic, part_of, under
from transfer_maskrcnn.surgery.problems import Problem, Transfer, shown_keep

FAIR_START = (
    "MODEL.BACKBONE.FREEZE_AT 0, MODEL.RESNETS.NORM GN and MODEL.PIXEL_STD [57.375, 57.12, 58.395]"
)


def find_problems(transfer: Transfer) -> tuple[Problem, ...]:
    """Runs every check; a check that would only repeat an earlier one's cause says nothing."""
    checks: list[Callable[[Transfer], Iterator[Problem]]] = [
        _nothing_to_keep,
        _unknown_prefixes,
        _another_backbone,
        _parts_left_out,
        _shapes,
        _norms,
        class_names,
        class_counts,
        rows_apart,
        unused_class_arguments,
        _input_convention,
        _not_finite,
        _frozen_random,
    ]
    return tuple(problem for check in checks for problem in check(transfer))


def _moves(t: Transfer) -> bool:
    return any(fate.fate in ("kept", "rows") for fate in t.fates)


def _nothing_to_keep(t: Transfer) -> Iterator[Problem]:
    keep = t.matching.keep
    if keep == "random_init" or _moves(t):
        return
    if not t.source.tensors:
        yield Problem(
            "no_weights",
            f"MODEL.WEIGHTS is empty: there is nothing to keep, and KEEP is {shown_keep(keep)}.",
            "Name a weight file, or say MODEL.TRANSFER.KEEP random_init to train from nothing.",
        )
    elif not t.matching.partner:
        here, there = list(t.matching.target.tensors)[:3], list(t.source.tensors)[:3]
        yield Problem(
            "no_match",
            f"No tensor of {t.source.path} matches the model: the file has {', '.join(there)}; the "
            f"model has {', '.join(here)}.",
            "Check that MODEL.WEIGHTS is a detector or ResNet backbone and that the config builds the "
            "same kind of model.",
        )
    else:
        yield Problem(
            "no_match",
            f"KEEP {shown_keep(keep)} keeps no tensor of {t.source.path}.",
            "Choose another preset, or weights that have these parts.",
        )


def _unknown_prefixes(t: Transfer) -> Iterator[Problem]:
    keep = t.matching.keep
    if isinstance(keep, str):
        return
    names = list(t.matching.target.tensors)
    modules = {n.rpartition(".")[0] for n in names} | {group_of(n) for n in names}
    for prefix in keep:
        if not any(under(name, prefix) for name in names):
            near = difflib.get_close_matches(prefix, [*PRESETS, *sorted(modules)], n=1)
            yield Problem(
                "unknown_keep",
                f"KEEP {prefix!r} is no module of the model.",
                (f"Did you mean {near[0]!r}? " if near else "")
                + f"The presets are {', '.join(PRESETS)}; anything else is a module prefix like "
                "backbone.bottom_up.",
            )
    if not keep:
        yield Problem("unknown_keep", "KEEP is empty.", f"Use one of {', '.join(PRESETS)}.")


def _another_backbone(t: Transfer) -> Iterator[Problem]:
    if t.matching.keep != "random_init" and t.source.tensors:
        problem = backbone_problem(t.source.tensors, t.matching.target.tensors)
        if problem is not None:
            yield problem


def _parts_left_out(t: Transfer) -> Iterator[Problem]:
    """A part that KEEP asks for, of which nothing came. A preset above the RPN asks for whatever the
    source has (a backbone has no mask head); a lower preset or a prefix names what it wants."""
    if not _moves(t):
        return
    keep = t.matching.keep
    named = not isinstance(keep, str) or keep.startswith("backbone")
    wanted = keep if not isinstance(keep, str) else PRESETS[keep]
    for part in wanted:
        inside = [f for f in t.fates if f.target and _in(part, f.target, keep)]
        inside = [f for f in inside if part_of(f.target or "") not in ("settings", "predictors")]
        missing = bool(inside) and all(f.fate == "initialised" for f in inside)
        has = part in t.matching.source_parts
        if missing and (named or has or part == "backbone"):
            why = "differs there" if has else "has none of it"
            yield Problem(
                "part_initialised",
                f"KEEP {shown_keep(keep)} asks for {part}, but all of its {len(inside)} tensors "
                f"stay initialised: the source {why} (first: {inside[0].reason}).",
                "Build this part as the source has it, or choose a KEEP without it.",
            )


def _in(part: str, name: str, keep: str | tuple[str, ...]) -> bool:
    return part_of(name) == part if isinstance(keep, str) else under(name, part)


def _shapes(t: Transfer) -> Iterator[Problem]:
    if any(_another_backbone(t)):
        unfit = [f for f in _unfit(t) if part_of(f.target or "") not in ("backbone", "FPN")]
    else:
        unfit = list(_unfit(t))
    if unfit:
        listed = "; ".join(f"{f.target}: {f.reason}" for f in unfit[:4])
        more = f" and {len(unfit) - 4} more" if len(unfit) > 4 else ""
        yield Problem(
            "shape_mismatch",
            f"{len(unfit)} tensors that KEEP asks for do not fit: {listed}{more}.",
            "Give the config the source's channels and anchors, or a KEEP without this part.",
        )


def _unfit(t: Transfer) -> Iterator[TensorFate]:
    by_name = t.matching.keep == "class_rows"
    for fate in t.fates:
        if fate.target is None or not fate.reason.startswith("shapes differ"):
            continue
        if part_of(fate.target) != "predictors" or not by_name:
            yield fate


def _norms(t: Transfer) -> Iterator[Problem]:
    clashes = [f for f in t.fates if f.target and f.reason.startswith("norms differ")]
    if clashes:
        groups = list(dict.fromkeys(group_of(f.target or "") for f in clashes))
        yield Problem(
            "norms_differ",
            f"In {', '.join(groups[:5])} the {clashes[0].reason}: scale and shift mean something "
            "else there.",
            "Set MODEL.RESNETS.NORM (MODEL.FPN.NORM, ROI_*_HEAD.NORM) to the source's kind, or "
            "take weights trained with the target's.",
        )


def _input_convention(t: Transfer) -> Iterator[Problem]:
    """Weights that are known to need other pixels, or another stride, than the model has."""
    settings = t.matching.target.settings
    backbone = any(f.fate == "kept" and part_of(f.target or "") == "backbone" for f in t.fates)
    wrong = {
        key: value
        for key, value in t.source.expects.items()
        if backbone and key in settings and not _same(settings[key], value)
    }
    if wrong:
        has = ", ".join(f"{key} {settings[key]}" for key in wrong)
        needs = " ".join(f"{key} {str(v).replace(' ', '')}" for key, v in wrong.items())
        yield Problem(
            "input_differs",
            f"The source's backbone was trained for other input or strides: the model has {has}.",
            f"Set {needs}.",
        )


def _same(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(abs(x - y) < 0.1 for x, y in zip(a, b, strict=True))
    return a == b


def _not_finite(t: Transfer) -> Iterator[Problem]:
    bad = [
        f.source
        for f in t.fates
        if f.source and f.fate in ("kept", "rows") and not _finite(t.source.tensors[f.source])
    ]
    if bad:
        yield Problem(
            "not_finite",
            f"{len(bad)} tensors of the source hold NaN or Inf: {', '.join(bad[:4])}.",
            "Training that wrote them diverged; take an earlier checkpoint.",
        )


def _finite(tensor: Tensor) -> bool:
    """One cheap sum decides; only a sum that overflows makes it look at every number."""
    if not tensor.is_floating_point():
        return True
    total = tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


def _frozen_random(t: Transfer) -> Iterator[Problem]:
    """Random weights that stay random: frozen, or under norms that have no statistics."""
    target = t.matching.target
    random = {f.target: f for f in t.fates if f.target and f.fate == "initialised"}
    frozen = [f for name, f in random.items() if name in target.frozen and not is_statistic(name)]
    norms = [n for n in target.frozen_norms if f"{n}.weight" in random and _conv(n) in random]
    if not frozen and not norms:
        return
    parts = []
    if frozen:
        groups = ", ".join(dict.fromkeys(group_of(f.target or "") for f in frozen))
        count = sum(f.parameters for f in frozen)
        parts.append(f"{count:,} random parameters are about to be frozen ({groups})")
    if norms:
        parts.append(f"{len(norms)} FrozenBN layers have no statistics and never learn any")
    yield Problem(
        "frozen_random",
        f"{' and '.join(parts)}: training cannot mend them, and the loss may overflow at once.",
        f"Keep a pretrained backbone, or train it too: {FAIR_START}.",
    )


def _conv(norm: str) -> str:
    return norm.removesuffix(".norm") + ".weight"
