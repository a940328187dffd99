"""Everything that strict mode refuses, as values. Nothing is raised here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from transfer_maskrcnn.surgery.fates import Matching, TensorFate
from transfer_maskrcnn.surgery.names import PRESETS, group_of, is_statistic, part_of, under
from transfer_maskrcnn.surgery.words import Code, Problem, Reason
from transfer_maskrcnn.text import few, first_of

_CONV = re.compile(r"(?:^|\.)(stem\.conv1|res[2-5]\.\d+\.(?:conv[123]|shortcut))\.weight$")
_COLUMNS = re.compile(r"\.point_head\..*weight$")
_DEPTHS = {
    "2-2-2-2 basic": 18,
    "3-4-6-3 basic": 34,
    "3-4-6-3 bottleneck": 50,
    "3-4-23-3 bottleneck": 101,
    "3-8-36-3 bottleneck": 152,
}


def find_problems(m: Matching, fates: Sequence[TensorFate]) -> tuple[Problem, ...]:
    """Runs every check; one that would only tell a consequence of what another finds is silent."""
    checks = (
        *(_nothing_to_keep, _unknown_prefixes, _another_backbone, _parts_left_out, _shapes, _norms),
        *(_class_names, _class_counts, _rows_apart, _input_convention, _not_finite, _frozen_random),
    )
    return tuple(problem for check in checks for problem in check(m, fates))


def _of(fates: Sequence[TensorFate], *codes: Reason) -> list[TensorFate]:
    """The target's tensors that have one of these reasons."""
    return [fate for fate in fates if fate.target and fate.code in codes]


def _moving(fates: Sequence[TensorFate]) -> list[TensorFate]:
    return [fate for fate in fates if fate.fate in ("kept", "rows")]


def _nothing_to_keep(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    here, there = list(m.target.tensors)[:3], list(m.source.tensors)[:3]
    problem = first_of(
        (not there, Problem(Code.NO_WEIGHTS, {"keep": m.keep})),
        (
            not m.partner,
            Problem(Code.NO_MATCH, {"path": m.source.path, "there": there, "here": here}),
        ),
        (True, Problem(Code.NOTHING_KEPT, {"keep": m.keep, "path": m.source.path})),
    )
    told = _moving(fates) or any(_unknown_prefixes(m, fates))
    if m.keep != "random_init" and not told:
        yield problem


def _unknown_prefixes(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    if isinstance(m.keep, str):
        return
    names = m.target.tensors
    modules = {n.rpartition(".")[0] for n in names} | {group_of(n) for n in names}
    for prefix in m.keep:
        if not any(under(name, prefix) for name in names):
            near = difflib.get_close_matches(prefix, [*PRESETS, *sorted(modules)], n=1)
            yield Problem(Code.UNKNOWN_KEEP, {"prefix": prefix, "near": "".join(near)})
    if not m.keep:
        yield Problem(Code.EMPTY_KEEP)


def _another_backbone(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    convs = [backbone_convs(tensors) for tensors in (m.source.tensors, m.target.tensors)]
    if m.keep == "random_init" or not all("res2.0.conv2" in names for names in convs):
        return  # nothing is asked for, or not both are a ResNet of detectron2's form
    stages = [s for s in "2345" if all(f"res{s}.0.conv1" in names for names in convs)]
    there, here = (_outline(names, stages) for names in convs)
    differ = [what for what in there if there[what][0] != here[what][0]]
    if differ:
        pairs = [f"{w} ({there[w][0]} in the source, {here[w][0]} in the target)" for w in differ]
        keys = [f"MODEL.RESNETS.{there[what][1]}" for what in differ]
        yield Problem(Code.BACKBONE_DIFFERS, {"differences": pairs, "keys": keys})


def backbone_convs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Place in a ResNet -> shape of its convolution, (out, in, height, width)."""
    found = ((_CONV.search(k), v) for k, v in tensors.items() if part_of(k) == "backbone")
    return {place[1]: tuple(v.shape) for place, v in found if place and v.dim() == 4}


def _outline(convs: Mapping[str, tuple[int, ...]], stages: list[str]) -> dict[str, tuple[str, str]]:
    """What tells one ResNet from another -> how it is here, and the key of MODEL.RESNETS for it."""
    kind = "bottleneck" if "res2.0.conv3" in convs else "basic"
    blocks = [sum(bool(re.match(rf"res{s}\.\d+\.conv1$", c)) for c in convs) for s in stages]
    form = f"{'-'.join(map(str, blocks))} {kind}"
    depth = _DEPTHS.get(form)
    inner, group = convs["res2.0.conv1"][0], convs["res2.0.conv2"][1]
    groups, out = inner // group, convs.get("res2.0.conv3", convs["res2.0.conv2"])[0]
    stem = convs.get("stem.conv1", (0,))[0]
    return {
        "depth": (f"ResNet-{depth}" if depth else f"{form} blocks", f"DEPTH {depth or form}"),
        "stem width": (f"{stem} channels", f"STEM_OUT_CHANNELS {stem}"),
        "block width": (f"{out} channels", f"RES2_OUT_CHANNELS {out}"),
        "inner width": (f"{inner} channels", f"WIDTH_PER_GROUP {inner // groups}"),
        "width of a group": (f"{group} channels", f"NUM_GROUPS {groups}"),
    }


def _parts_left_out(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    """A part that KEEP asks for, of which nothing came. A preset above the RPN asks for what the
    source has (a backbone has no mask head); a lower preset or a prefix names what it wants."""
    preset = isinstance(m.keep, str)
    named = not isinstance(m.keep, str) or m.keep.startswith("backbone")
    learnt = [f for f in fates if f.target and part_of(f.name) not in ("settings", "predictors")]
    for part in PRESETS[m.keep] if isinstance(m.keep, str) else m.keep:
        inside = [f for f in learnt if (part_of(f.name) == part if preset else under(f.name, part))]
        has = part in m.source_parts
        wanted = _moving(fates) and inside and (named or has or part == "backbone")
        if wanted and all(fate.fate == "initialised" for fate in inside):
            data = {"keep": m.keep, "part": part, "count": len(inside), "first": inside[0].reason}
            yield Problem(Code.PART_INITIALISED if has else Code.PART_ABSENT, data)


def _shapes(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    told = ["backbone", "FPN"] if any(_another_backbone(m, fates)) else []
    told += ["predictors"] if m.keep == "class_rows" else []
    unfit = [
        f"{f.name}: {f.reason}" for f in _of(fates, Reason.SHAPES) if part_of(f.name) not in told
    ]
    if unfit:
        yield Problem(Code.SHAPE_MISMATCH, {"count": len(unfit), "listed": few(unfit, 4)})


def _norms(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    clashes = _of(fates, Reason.NORMS, Reason.FUSED)
    if clashes:
        data = {"groups": groups_of(clashes)[:5], "reason": clashes[0].reason}
        yield Problem(Code.NORMS_DIFFER, data)


def groups_of(fates: Sequence[TensorFate]) -> list[str]:
    """The lines of the table that tensors are counted in, each once."""
    return list(dict.fromkeys(group_of(fate.name) for fate in fates))


def _class_names(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    """Rows need names; predictors kept whole go by position, and only names say what that means."""
    old, new, rows = m.source.classes, m.target_classes, m.keep == "class_rows"
    known = "predictors" in m.source_parts
    by_position = not isinstance(m.keep, str)  # prefixes take the columns of PointRend, too
    whole = [
        f.name
        for f in fates
        if f.fate == "kept"
        and (part_of(f.name) == "predictors" or (by_position and _COLUMNS.search(f.name)))
    ]
    data = {"keep": m.keep, "first": "".join(whole[:1]), "more": len(whole) - 1}
    cases = (
        (rows and not known, Problem(Code.NO_PREDICTORS)),
        (
            rows and known and old is None,
            Problem(Code.UNKNOWN_SOURCE_CLASSES, {"path": m.source.path}),
        ),
        (rows and known and new is None, Problem(Code.UNKNOWN_TARGET_CLASSES)),
        (
            whole and not rows and (old is None or old != new),
            Problem(Code.CLASS_NAMES, {**data, "old": old, "new": new}),
        ),
    )
    yield from (problem for holds, problem in cases if holds)


def _class_counts(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    theirs = "MODEL.TRANSFER.SOURCE_CLASSES"
    ours = "MODEL.ROI_HEADS.NUM_CLASSES or the dataset's thing_classes"
    sides = (("source", m.source.classes, theirs), ("target", m.target_classes, ours))
    for (side, names, key), rows in zip(sides, m.counts, strict=True):
        if names is not None and rows and len(names) != rows:
            data = {"side": side, "count": len(names), "names": names, "rows": rows, "key": key}
            yield Problem(Code.CLASS_COUNT, data)


def _rows_apart(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    """Classifier, regressor and mask rows move together or not at all."""
    apart = [f for f in _of(fates, Reason.SHAPES) if part_of(f.name) == "predictors"]
    if apart and m.keep == "class_rows" and any(f.fate == "rows" for f in fates):
        listed = few([fate.name for fate in apart], 1)
        yield Problem(Code.ROWS_APART, {"listed": listed, "reason": apart[0].reason})


def _input_convention(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    """Weights that are known to need other pixels, or another stride, than the model has."""
    has = m.target.settings
    wrong = {k: v for k, v in m.source.expects.items() if k in has and not _same(has[k], v)}
    if wrong and any(f.fate == "kept" and part_of(f.name) == "backbone" for f in fates):
        data = {"has": as_options({key: has[key] for key in wrong}), "needs": as_options(wrong)}
        yield Problem(Code.INPUT_DIFFERS, data)


def as_options(settings: Mapping[str, object]) -> str:
    """Keys and values as they are typed on a command line."""
    return " ".join(f"{key} {str(value).replace(' ', '')}" for key, value in settings.items())


def _same(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(abs(x - y) < 0.1 for x, y in zip(a, b, strict=True))
    return a == b


def _not_finite(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    moved = {fate.source: m.source.tensors[fate.source or ""] for fate in _moving(fates)}
    # one cheap sum decides; only a sum that overflows makes it look at every number
    suspects = {k: v for k, v in moved.items() if not v.float().sum().isfinite()}
    bad = [name for name, tensor in suspects.items() if not tensor.isfinite().all()]
    if bad:
        yield Problem(Code.NOT_FINITE, {"count": len(bad), "names": bad[:4]})


def _frozen_random(m: Matching, fates: Sequence[TensorFate]) -> Iterator[Problem]:
    """Random weights that stay random: frozen, or under norms that have no statistics."""
    if any(_unknown_prefixes(m, fates)):
        return  # what is meant would not be random
    random = {fate.name: fate for fate in fates if fate.fate == "initialised"}
    frozen = [f for k, f in random.items() if k in m.target.frozen and not is_statistic(k)]
    norms = [
        name
        for name in m.target.frozen_norms
        if f"{name}.weight" in random and f"{name.removesuffix('.norm')}.weight" in random
    ]
    if frozen or norms:
        count = sum(fate.parameters for fate in frozen)
        data = {"count": count, "groups": groups_of(frozen), "norms": len(norms)}
        yield Problem(Code.FROZEN_RANDOM, data)
