import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.plan import TransferPlan, plan_transfer

Tiny = Callable[..., nn.Module]
NAMES = ("cat", "dog", "owl")
MINE = ("owl", "newt")
BACKBONE = {"backbone.bottom_up.stem.conv1", "backbone.bottom_up.res2.0.conv1"}
FPN = {"backbone.fpn_lateral2"}
RPN = {"proposal_generator.rpn_head.conv"}
HEADS = {"roi_heads.box_head.fc1", "roi_heads.mask_head.mask_fcn1"}
PREDICTORS = {
    "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_head.predictor",
}


def weights(model: nn.Module, classes: tuple[str, ...] | None = NAMES) -> SourceWeights:
    return SourceWeights(model.state_dict(), "source.pth", classes)


def modules(plan: TransferPlan, fate: str) -> set[str]:
    return {(t.target or t.source or "").rpartition(".")[0] for t in plan.tensors if t.fate == fate}


# keep, modules kept, modules with rows
PRESETS = [
    ("random_init", set(), set()),
    ("backbone", BACKBONE, set()),
    ("backbone_fpn", BACKBONE | FPN, set()),
    ("backbone_fpn_rpn", BACKBONE | FPN | RPN, set()),
    ("all_but_predictors", BACKBONE | FPN | RPN | HEADS, set()),
    ("class_rows", BACKBONE | FPN | RPN | HEADS, PREDICTORS),
    # module prefixes, as a config writes them and as a list
    ("backbone.bottom_up,proposal_generator", BACKBONE | RPN, set()),
    (["backbone.fpn_", "roi_heads.box_head"], FPN | {"roi_heads.box_head.fc1"}, set()),
]


@pytest.mark.parametrize(("keep", "kept", "rows"), PRESETS)
def test_presets(keep: str | list[str], kept: set[str], rows: set[str], tiny: Tiny) -> None:
    plan = plan_transfer(weights(tiny(3)), tiny(2), keep=keep, target_classes=MINE)
    assert plan.problems == ()
    assert modules(plan, "kept") == kept
    assert modules(plan, "rows") == rows
    everything = BACKBONE | FPN | RPN | HEADS | PREDICTORS
    assert modules(plan, "initialised") == everything - kept - rows
    assert modules(plan, "dropped") == everything - kept - rows


def test_predictors_are_dropped_even_where_they_fit(tiny: Tiny) -> None:
    plan = plan_transfer(weights(tiny(3)), tiny(3), target_classes=("a", "b", "c"))
    assert plan.problems == ()
    assert modules(plan, "initialised") == PREDICTORS
    fate = next(t for t in plan.tensors if t.target == "roi_heads.box_predictor.cls_score.weight")
    assert "class names" in fate.reason


def test_class_agnostic_predictors_are_kept_whole_with_rows(tiny: Tiny) -> None:
    source, target = tiny(3, agnostic=True), tiny(2, agnostic=True)
    plan = plan_transfer(weights(source), target, keep="class_rows", target_classes=MINE)
    assert plan.problems == ()
    assert modules(plan, "rows") == {"roi_heads.box_predictor.cls_score"}
    assert modules(plan, "initialised") == set()
    default = plan_transfer(weights(source), target, target_classes=MINE)
    assert modules(default, "initialised") == PREDICTORS


def test_counts(tiny: Tiny) -> None:
    plan = plan_transfer(weights(tiny(3)), tiny(2), keep="class_rows", target_classes=MINE)
    # one class of two: class and background of 3 score rows, 4 of 8 box rows, 1 of 2 mask rows;
    # a row is 2 weights and a bias
    assert plan.totals()["rows"] == {"tensors": 6, "parameters": 13 * 3, "moved": 7 * 3}
    parameters = sum(p.numel() for p in tiny(2).parameters())
    assert plan.loaded_fraction() == pytest.approx((parameters - 6 * 3) / parameters)
    assert plan_transfer(weights(tiny(3)), tiny(2), keep="random_init").loaded_fraction() == 0


def test_running_statistics_are_no_parameters(tiny: Tiny) -> None:
    target = nn.ModuleDict({"backbone": nn.ModuleDict({"norm": nn.BatchNorm2d(4)})})
    plan = plan_transfer(weights(target), target)
    assert plan.totals()["kept"] == {"tensors": 5, "parameters": 8, "moved": 8}


def test_pure_and_repeatable(tiny: Tiny) -> None:
    source, target = tiny(3), tiny(2)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    generator = torch.get_rng_state()
    arguments = {"keep": "class_rows", "target_classes": MINE, "new_class_init": "mean"}
    first = plan_transfer(weights(source), target, **arguments)
    assert first == plan_transfer(weights(source), target, **arguments)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize("keep", ["class_rows", "all_but_predictors", ["backbone", "missing"]])
def test_json_holds_all_of_the_plan(keep: str | list[str], tiny: Tiny) -> None:
    plan = plan_transfer(weights(tiny(3)), tiny(2), keep=keep, target_classes=MINE)
    content, values = json.loads(plan.to_json()), json.loads(json.dumps(asdict(plan)))
    for key, value in values.items():
        if key in ("classes", "tensors", "problems", "notes"):
            assert [{**t, **v} for t, v in zip(content[key], value, strict=True)] == content[key]
        else:
            assert content[key] == value
    assert [t["reason"] for t in content["tensors"]] == [t.reason for t in plan.tensors]


def test_table_fits_a_terminal(tiny: Tiny) -> None:
    long = ("a_class_name_that_nobody_would_ever_want_to_write_on_one_line_of_a_terminal", "owl")
    plan = plan_transfer(weights(tiny(3)), tiny(2), keep="class_rows", target_classes=long)
    lines = plan.table().splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(plan.table().split())
    assert "backbone.bottom_up.stem kept 2 8" in text
    assert "roi_heads.box_predictor.cls_score rows 2 6" in text
    assert "class 'owl': own rows, equal name" in text
    assert "of the target's parameters are loaded" in text


def poisoned(model: nn.Module) -> SourceWeights:
    model.state_dict()["backbone.fpn_lateral2.bias"][0] = float("nan")
    return weights(model)


def renamed(model: nn.Module) -> SourceWeights:
    state = {f"net.{i}": v for i, v in enumerate(model.state_dict().values())}
    return SourceWeights(state, "source.pth", NAMES)


ROWS = {"keep": "class_rows"}
# what the source is, arguments, code of the problem, words of the message
PROBLEMS = [
    (lambda t: SourceWeights({}), {}, "no_weights", ["MODEL.WEIGHTS is empty", "KEEP random_init"]),
    (lambda t: renamed(t(3)), {}, "no_match", ["net.0", "backbone.bottom_up.stem.conv1.weight"]),
    # a kept part of which nothing fits
    (lambda t: weights(t(3, width=3)), {}, "nothing_kept", ["keeps no tensor"]),
    (
        lambda t: SourceWeights({k: v for k, v in t(3).state_dict().items() if "fpn" not in k}),
        {"keep": "backbone_fpn"},
        "part_absent",
        ["asks for FPN", "has none of it"],
    ),
    (lambda t: poisoned(t(3)), {}, "not_finite", ["NaN or Inf", "backbone.fpn_lateral2.bias"]),
    # positions without names
    (
        lambda t: weights(t(2)),
        {"keep": ["roi_heads"]},
        "class_count",
        ["3 class names", "2 classes"],
    ),
    (
        lambda t: weights(t(2), ("cat", "dog")),
        {"keep": ["roi_heads"]},
        "class_names",
        ["'cat', 'dog'", "'owl'"],
    ),
    (
        lambda t: weights(t(2), None),
        {"keep": ["roi_heads"]},
        "class_names",
        ["of the source are unknown"],
    ),
    # rows without names
    (lambda t: weights(t(3), None), ROWS, "unknown_source_classes", ["SOURCE_CLASSES"]),
    (
        lambda t: weights(t(3)),
        {**ROWS, "target_classes": None},
        "unknown_target_classes",
        ["thing_classes"],
    ),
    (lambda t: weights(t(3), ("cat",)), ROWS, "class_count", ["1 class names", "3 classes"]),
    (
        lambda t: weights(t(3)),
        {**ROWS, "target_classes": ("newt", "elk")},
        "no_class_matches",
        ["CLASS_MAP"],
    ),
    (lambda t: weights(t(3, agnostic=True)), ROWS, "rows_apart", ["CLS_AGNOSTIC"]),
    (
        lambda t: SourceWeights(
            {k: v for k, v in t(3).state_dict().items() if "backbone" in k}, "t.pkl"
        ),
        ROWS,
        "no_predictors",
        ["all_but_predictors"],
    ),
    (lambda t: weights(t(3)), {**ROWS, "class_map": [["eel", "owl"]]}, "unknown_class", ["'eel'"]),
    (lambda t: weights(t(3)), {**ROWS, "new_class_init": "bird"}, "unknown_class", ["'bird'"]),
    # arguments without effect, words that mean nothing
    (lambda t: weights(t(3)), {"class_map": [["cat", "owl"]]}, "unused", ["CLASS_MAP only counts"]),
    (lambda t: weights(t(3)), {"new_class_init": "mean"}, "unused", ["NEW_CLASS_INIT only counts"]),
    (
        lambda t: weights(t(3)),
        {"keep": "bakbone"},
        "unknown_keep",
        ["'bakbone'", "Did you mean 'backbone'?"],
    ),
    (lambda t: weights(t(3)), {"keep": ""}, "empty_keep", ["KEEP is empty"]),
]


@pytest.mark.parametrize(("make", "arguments", "code", "words"), PROBLEMS)
def test_problems(make: Callable, arguments: dict, code: str, words: list[str], tiny: Tiny) -> None:
    plan = plan_transfer(make(tiny), tiny(2), **{"target_classes": MINE, **arguments})
    found = [problem for problem in plan.problems if problem.code == code]
    assert len(found) == 1, plan.problems
    assert "_keep" not in code or len(plan.problems) == 1  # what follows from a typo is not told
    assert all(word in str(found[0]) for word in words), str(found[0])
    with pytest.raises(TransferPlanError) as caught:
        plan.check()
    assert found[0].text in str(caught.value)
    assert found[0].remedy in str(caught.value)
    assert str(found[0]) in plan.check(strict=False)


def test_all_problems_are_raised_at_once(tiny: Tiny) -> None:
    plan = plan_transfer(
        poisoned(tiny(3)),
        tiny(2),
        keep="class_rows",
        target_classes=MINE,
        class_map=[["eel", "owl"]],
        new_class_init="bird",
    )
    with pytest.raises(TransferPlanError, match="3 problems") as caught:
        plan.check()
    assert len(caught.value.problems) == 3


def test_names_that_do_not_fit_the_classifier_move_no_rows(tiny: Tiny) -> None:
    """Not even where STRICT False goes on: only the background's row is beyond doubt."""
    plan = plan_transfer(
        weights(tiny(3), ("owl",)), tiny(2), keep="class_rows", target_classes=MINE
    )
    assert plan.check(strict=False)
    assert plan.classes == ()
    assert plan.totals()["rows"]["moved"] == 3


def test_a_shape_that_does_not_fit(tiny: Tiny) -> None:
    source = tiny(3)
    source["roi_heads"]["box_head"]["fc1"] = nn.Linear(2, 5)
    plan = plan_transfer(weights(source), tiny(2))
    problem = next(p for p in plan.problems if p.code == "shape_mismatch")
    assert (
        "box_head.fc1.weight: shapes differ: [5, 2] in the source, [2, 2] in the target"
        in problem.text
    )
    assert any(p.code == "part_initialised" and "box head" in p.text for p in plan.problems)


def test_frozen_random_weights(tiny: Tiny) -> None:
    target = tiny(2)
    for parameter in target["backbone"]["bottom_up"]["stem"].parameters():
        parameter.requires_grad = False
    plan = plan_transfer(SourceWeights({}), target, keep="random_init")
    assert [p.code for p in plan.problems] == ["frozen_random"]
    assert "8 random parameters" in plan.problems[0].text
    assert "FREEZE_AT 0" in plan.problems[0].remedy
    assert plan_transfer(weights(tiny(3)), target).problems == ()


GROUP = {"weight", "bias"}
FROZEN = GROUP | {"running_mean", "running_var"}
BATCH = FROZEN | {"num_batches_tracked"}
# norm tensors of source and target, renamed from, whether scale and shift move, words of a problem
NORMS = [
    (FROZEN, FROZEN, "", True, None),
    # the same tensors but for a counter
    (BATCH, FROZEN, "", True, None),
    (FROZEN, BATCH, "", True, None),
    (GROUP, GROUP, "", True, None),
    (BATCH, GROUP, "", False, "BatchNorm in the source, GroupNorm in the target"),
    # without statistics: Caffe2's fused BatchNorm, unless the file's names say GroupNorm
    (GROUP, FROZEN, "res2_0_branch2a_bn_s", True, None),
    (
        GROUP,
        FROZEN,
        "res2_0_branch2a_gn_s",
        False,
        "GroupNorm in the source, FrozenBN in the target",
    ),
    (GROUP, BATCH, "res2_0_branch2a_bn_s", False, "fused into an affine layer"),
]


@pytest.mark.parametrize(("old", "new", "file_name", "moves", "words"), NORMS)
def test_norms(
    old: set[str], new: set[str], file_name: str, moves: bool, words: str | None
) -> None:
    norm = "backbone.res2.0.conv1.norm"
    conv = {"backbone.res2.0.conv1.weight": torch.ones(2)}
    source = SourceWeights(
        {**conv, **{f"{norm}.{leaf}": torch.ones(2) for leaf in sorted(old)}},
        "r50.pkl",
        renamed={f"{norm}.weight": file_name} if file_name else {},
    )
    plan = plan_transfer(
        source, {**conv, **{f"{norm}.{leaf}": torch.ones(2) for leaf in sorted(new)}}
    )
    fates = {t.target: t.fate for t in plan.tensors}
    assert (fates[f"{norm}.weight"] == "kept") is moves
    assert [p.code for p in plan.problems] == ([] if words is None else ["norms_differ"])
    assert words is None or words in plan.problems[0].text


def test_named_once_whatever_happens(tiny: Tiny) -> None:
    source = weights(tiny(3))
    others = {k: v for k, v in source.tensors.items() if not k.endswith("conv1.weight")}
    source = replace(source, tensors={**others, "conv1.weight": torch.ones(1)})
    plan = plan_transfer(source, tiny(2))
    targets = [t.target for t in plan.tensors if t.target is not None]
    sources = [t.source for t in plan.tensors if t.source is not None]
    assert sorted(targets) == sorted(tiny(2).state_dict())
    assert sorted(sources) == sorted(source.tensors)
    lost = next(t for t in plan.tensors if t.source == "conv1.weight")
    assert lost.reason == "its name is the end of several target names"
