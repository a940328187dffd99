"""Everything that strict mode refuses, as values. Nothing is raised here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer_maskrcnn.surgery.fates import Matching, TensorFate
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.parts import PRESETS, group_of, is_statistic, part_of, under
from transfer_maskrcnn.surgery.words import Code, Problem, Reason
from transfer_maskrcnn.text import few

_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.(conv[123]|shortcut)\.weight$")
_DEPTHS: dict[tuple[object, ...], int] = {
    ("basic", 2, 2, 2, 2): 18,
    ("basic", 3, 4, 6, 3): 34,
    ("bottleneck", 3, 4, 6, 3): 50,
    ("bottleneck", 3, 4, 23, 3): 101,
    ("bottleneck", 3, 8, 36, 3): 152,
}


@dataclass(frozen=True)
class Transfer:
    """What the checks look at: the asker's arguments, both sides, and the decided fates."""

    source: SourceWeights
    matching: Matching
    fates: Sequence[TensorFate]
    target_classes: tuple[str, ...] | None
    class_map: Sequence[Sequence[str]]
    new_class_init: str | Sequence[Sequence[str]]

    @property
    def keep(self) -> str | list[str]:
        """KEEP, as data."""
        keep = self.matching.keep
        return keep if isinstance(keep, str) else list(keep)

    def of(self, *codes: Reason) -> list[TensorFate]:
        """The target's tensors that have one of these reasons."""
        return [fate for fate in self.fates if fate.target and fate.code in codes]


def find_problems(transfer: Transfer) -> tuple[Problem, ...]:
    """Runs every check; a check that would only repeat an earlier one's cause says nothing."""
    checks = (
        *(_nothing_to_keep, _unknown_prefixes, _another_backbone, _parts_left_out, _shapes, _norms),
        *(_class_names, _class_counts, _rows_apart, _unused_class_arguments),
        *(_input_convention, _not_finite, _frozen_random),
    )
    return tuple(problem for check in checks for problem in check(transfer))


def _moves(t: Transfer) -> bool:
    return any(fate.fate in ("kept", "rows") for fate in t.fates)


def _nothing_to_keep(t: Transfer) -> Iterator[Problem]:
    if t.keep == "random_init" or _moves(t):
        return
    path = t.source.path
    if not t.source.tensors:
        yield Problem(Code.NO_WEIGHTS, {"keep": t.keep})
    elif not t.matching.partner:
        here, there = list(t.matching.target.tensors)[:3], list(t.source.tensors)[:3]
        yield Problem(Code.NO_MATCH, {"path": path, "there": there, "here": here})
    else:
        yield Problem(Code.NOTHING_KEPT, {"keep": t.keep, "path": path})


def _unknown_prefixes(t: Transfer) -> Iterator[Problem]:
    if isinstance(t.keep, str):
        return
    names = list(t.matching.target.tensors)
    modules = {n.rpartition(".")[0] for n in names} | {group_of(n) for n in names}
    for prefix in t.keep:
        if not any(under(name, prefix) for name in names):
            near = difflib.get_close_matches(prefix, [*PRESETS, *sorted(modules)], n=1)
            yield Problem(Code.UNKNOWN_KEEP, {"prefix": prefix, "near": near[0] if near else None})
    if not t.keep:
        yield Problem(Code.EMPTY_KEEP)


def _another_backbone(t: Transfer) -> Iterator[Problem]:
    if t.keep == "random_init" or not t.source.tensors:
        return
    a, b = _backbone(t.source.tensors), _backbone(t.matching.target.tensors)
    if a is None or b is None:
        return
    common = min(len(a.blocks), len(b.blocks))
    differences, keys = [], []
    if (a.kind, a.blocks[:common]) != (b.kind, b.blocks[:common]):
        differences.append(["depth", a.name, b.name])
        keys += [f"MODEL.RESNETS.DEPTH {a.depth}"] if a.depth else []
    groups = a.inner // max(a.group_width, 1)
    for what, old, new, key in (
        ("stem width", a.stem, b.stem, f"STEM_OUT_CHANNELS {a.stem}"),
        ("block width", a.res2_out, b.res2_out, f"RES2_OUT_CHANNELS {a.res2_out}"),
        ("inner width", a.inner, b.inner, f"WIDTH_PER_GROUP {a.inner // max(groups, 1)}"),
        ("width of a group", a.group_width, b.group_width, f"NUM_GROUPS {groups}"),
    ):
        if old != new:
            differences.append([what, f"{old} channels", str(new)])
            keys.append(f"MODEL.RESNETS.{key}")
    if differences:
        yield Problem(Code.BACKBONE_DIFFERS, {"differences": differences, "keys": keys})


@dataclass(frozen=True)
class _Backbone:
    """A ResNet's outline: blocks of res2..res5 and the channels of its stem, blocks and groups."""

    kind: str
    blocks: tuple[int, ...]
    stem: int
    res2_out: int
    inner: int
    group_width: int

    @property
    def depth(self) -> int | None:
        return _DEPTHS.get((self.kind, *self.blocks))

    @property
    def name(self) -> str:
        blocks = "-".join(map(str, self.blocks))
        return (
            f"ResNet-{self.depth}" if self.depth else f"a ResNet with {blocks} {self.kind} blocks"
        )


def _backbone(tensors: Mapping[str, Tensor]) -> _Backbone | None:
    """Returns None where there is no ResNet of detectron2's form."""
    blocks: dict[int, int] = {}
    first: dict[str, tuple[int, ...]] = {}
    stem = 0
    for name, tensor in tensors.items():
        if part_of(name) != "backbone":
            continue
        if re.search(r"(?:^|\.)stem\.conv1\.weight$", name) and tensor.dim():
            stem = tensor.shape[0]
        if (found := _BLOCK.search(name)) and tensor.dim() == 4:
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
            if (stage, block) == (2, 0):
                first[found[3]] = tuple(tensor.shape)
    if "conv2" not in first or "conv1" not in first:
        return None
    kind, last = ("bottleneck" if "conv3" in first else "basic"), first.get("conv3", first["conv2"])
    counts = tuple(blocks[stage] for stage in sorted(blocks))
    return _Backbone(kind, counts, stem, last[0], first["conv1"][0], first["conv2"][1])


def _parts_left_out(t: Transfer) -> Iterator[Problem]:
    """A part that KEEP asks for, of which nothing came. A preset above the RPN asks for what the
    source has (a backbone has no mask head); a lower preset or a prefix names what it wants."""
    if not _moves(t):
        return
    keep = t.keep
    preset = isinstance(keep, str)
    named = not isinstance(keep, str) or keep.startswith("backbone")
    for part in PRESETS[keep] if isinstance(keep, str) else keep:
        inside = [
            fate
            for fate in t.fates
            if fate.target
            and (part_of(fate.target) == part if preset else under(fate.target, part))
            and part_of(fate.target) not in ("settings", "predictors")
        ]
        missing = bool(inside) and all(f.fate == "initialised" for f in inside)
        has = part in t.matching.source_parts
        if missing and (named or has or part == "backbone"):
            data = {"keep": keep, "part": part, "count": len(inside), "first": inside[0].reason}
            yield Problem(Code.PART_INITIALISED if has else Code.PART_ABSENT, data)


def _shapes(t: Transfer) -> Iterator[Problem]:
    told: tuple[str, ...] = ("backbone", "FPN") if any(_another_backbone(t)) else ()
    told += ("predictors",) if t.keep == "class_rows" else ()
    unfit = [f for f in t.of(Reason.SHAPES) if part_of(f.target or "") not in told]
    if unfit:
        listed = "; ".join(f"{f.target}: {f.reason}" for f in unfit[:4])
        more = f" and {len(unfit) - 4} more" if len(unfit) > 4 else ""
        yield Problem(Code.SHAPE_MISMATCH, {"count": len(unfit), "listed": listed + more})


def _norms(t: Transfer) -> Iterator[Problem]:
    clashes = t.of(Reason.NORMS, Reason.FUSED)
    if clashes:
        groups = list(dict.fromkeys(group_of(f.target or "") for f in clashes))
        yield Problem(Code.NORMS_DIFFER, {"groups": groups[:5], "reason": clashes[0].reason})


def _class_names(t: Transfer) -> Iterator[Problem]:
    """Predictors kept whole go by position, and only names say what a position means."""
    if t.keep == "class_rows":
        yield from _unknown_names(t)
        return
    whole = [f.target for f in t.fates if f.target and f.fate == "kept" and _by_class(t, f.target)]
    old, new = t.source.classes, t.target_classes
    if whole and (old is None or new is None or old != new):
        data = {"keep": t.keep, "first": whole[0], "more": len(whole) - 1}
        yield Problem(
            Code.CLASS_NAMES, {**data, "old": old and list(old), "new": new and list(new)}
        )


def _by_class(t: Transfer, name: str) -> bool:
    columns = ".point_head." in name and name.endswith("weight") and not isinstance(t.keep, str)
    return part_of(name) == "predictors" or columns


def _unknown_names(t: Transfer) -> Iterator[Problem]:
    if "predictors" not in t.matching.source_parts:
        yield Problem(Code.NO_PREDICTORS)
        return
    if t.source.classes is None:
        yield Problem(Code.UNKNOWN_SOURCE_CLASSES, {"path": t.source.path})
    if t.target_classes is None:
        yield Problem(Code.UNKNOWN_TARGET_CLASSES)


def _class_counts(t: Transfer) -> Iterator[Problem]:
    sides = (("source", t.source.classes), ("target", t.target_classes))
    for (side, names), rows in zip(sides, t.matching.counts, strict=True):
        if names is not None and rows and len(names) != rows:
            data = {"side": side, "count": len(names), "names": list(names), "rows": rows}
            yield Problem(Code.CLASS_COUNT, data)


def _rows_apart(t: Transfer) -> Iterator[Problem]:
    """Classifier, regressor and mask rows move together or not at all."""
    if t.keep != "class_rows" or not any(f.fate == "rows" for f in t.fates):
        return
    apart = [f for f in t.of(Reason.SHAPES) if part_of(f.target or "") == "predictors"]
    if apart:
        listed = few([f.target or "" for f in apart], 1)
        yield Problem(Code.ROWS_APART, {"listed": listed, "reason": apart[0].reason})


def _unused_class_arguments(t: Transfer) -> Iterator[Problem]:
    init = () if t.new_class_init == "default" else t.new_class_init
    used = [k for k, v in (("CLASS_MAP", t.class_map), ("NEW_CLASS_INIT", init)) if v]
    if used and t.keep != "class_rows":
        yield Problem(Code.UNUSED, {"keys": used, "keep": t.keep})


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
        has = [f"{key} {settings[key]}" for key in wrong]
        yield Problem(Code.INPUT_DIFFERS, {"has": has, "needs": as_options(wrong)})


def as_options(settings: Mapping[str, object]) -> str:
    """Keys and values as they are typed on a command line."""
    return " ".join(f"{key} {str(value).replace(' ', '')}" for key, value in settings.items())


def _same(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(abs(x - y) < 0.1 for x, y in zip(a, b, strict=True))
    return a == b


def _not_finite(t: Transfer) -> Iterator[Problem]:
    moved = [f.source for f in t.fates if f.source and f.fate in ("kept", "rows")]
    bad = [name for name in moved if not _finite(t.source.tensors[name])]
    if bad:
        yield Problem(Code.NOT_FINITE, {"count": len(bad), "names": bad[:4]})


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
    if frozen or norms:
        groups = list(dict.fromkeys(group_of(f.target or "") for f in frozen))
        count = sum(f.parameters for f in frozen)
        yield Problem(Code.FROZEN_RANDOM, {"count": count, "groups": groups, "norms": len(norms)})


def _conv(norm: str) -> str:
    return norm.removesuffix(".norm") + ".weight"
