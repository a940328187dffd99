from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transfer_maskrcnn.errors import TransferPlanError
from transfer_maskrcnn.surgery.diff import diff_weights
from transfer_maskrcnn.surgery.load import SourceWeights
from transfer_maskrcnn.surgery.plan import TransferPlan, apply_plan, plan_transfer

Tiny = Callable[..., nn.Module]
BOX = "roi_heads.box_predictor"


def weights(model: nn.Module, classes: tuple[str, ...]) -> SourceWeights:
    return SourceWeights({k: v.clone() for k, v in model.state_dict().items()}, "s.pth", classes)


def blocks(state: dict, name: str, classes: int) -> torch.Tensor:
    """One row a class, (classes, numbers)."""
    per_class = 4 if "bbox_pred" in name else 1
    return state[name][: per_class * classes].reshape(classes, -1)


def same(plan: TransferPlan) -> bool:
    return all(t.fate in ("kept", "rows") and t.moved == t.parameters for t in plan.tensors)


ANIMALS = ["cat", "dog", "owl", "eel", "elk"]
names = st.lists(st.sampled_from(ANIMALS), min_size=1, unique=True).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    source_names=names,
    target_names=names,
    data=st.data(),
    init=st.sampled_from(["default", "mean"]),
)
def test_every_row_comes_from_its_class(
    tiny: Tiny, source_names: tuple, target_names: tuple, data: st.DataObject, init: str
) -> None:
    pairs = data.draw(
        st.lists(
            st.tuples(st.sampled_from(source_names), st.sampled_from(target_names)),
            unique_by=lambda pair: pair[1],
        )
    )
    target = tiny(len(target_names), seed=1)
    built = {k: v.clone() for k, v in target.state_dict().items()}
    source = weights(tiny(len(source_names)), source_names)
    plan = plan_transfer(
        source,
        target,
        keep="class_rows",
        target_classes=target_names,
        class_map=pairs,
        new_class_init=init,
    )
    apply_plan(plan, source, target)

    targets = [t.target for t in plan.tensors if t.target is not None]
    sources = [t.source for t in plan.tensors if t.source is not None]
    assert sorted(targets) == sorted(target.state_dict())
    assert sorted(sources) == sorted(source.tensors)
    assert sum(t.parameters for t in plan.tensors if t.target) == sum(
        v.numel() for v in built.values()
    )

    origin = {
        **{name: name for name in target_names if name in source_names},
        **{n: o for o, n in pairs},
    }
    assert plan.totals()["rows"]["moved"] == 3 * (6 * len(origin) + 1)
    state = target.state_dict()
    for name in (
        f"{BOX}.cls_score.weight",
        f"{BOX}.bbox_pred.bias",
        "roi_heads.mask_head.predictor.weight",
    ):
        old, new = (
            blocks(source.tensors, name, len(source_names)),
            blocks(state, name, len(target_names)),
        )
        fresh = blocks(built, name, len(target_names))
        for i, label in enumerate(target_names):
            if label in origin:
                assert torch.equal(new[i], old[source_names.index(origin[label])])
            elif init == "mean":
                torch.testing.assert_close(new[i], old.mean(0))
            else:
                assert torch.equal(new[i], fresh[i])
    assert torch.equal(
        state[f"{BOX}.cls_score.bias"][-1], source.tensors[f"{BOX}.cls_score.bias"][-1]
    )


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(ANIMALS))
def test_a_permutation_is_undone_and_a_second_plan_finds_nothing_to_do(
    tiny: Tiny, order: list
) -> None:
    source, shuffled, back = weights(tiny(5), tuple(ANIMALS)), tiny(5, seed=1), tiny(5, seed=2)

    def move(a: SourceWeights, model: nn.Module, classes: tuple[str, ...]) -> TransferPlan:
        plan = plan_transfer(a, model, keep="class_rows", target_classes=classes)
        plan.check()
        apply_plan(plan, a, model)
        return plan

    assert same(move(source, shuffled, tuple(order)))
    middle = weights(shuffled, tuple(order))
    assert same(move(middle, back, tuple(ANIMALS)))
    assert all(torch.equal(v, source.tensors[k]) for k, v in back.state_dict().items())
    move(middle, shuffled, tuple(order))
    after = diff_weights(middle, weights(shuffled, tuple(order)))
    assert {t.state for t in after.tensors} == {"identical"}


def test_parent_class(tiny: Tiny) -> None:
    source, target = weights(tiny(2), ("cat", "dog")), tiny(2, seed=1)
    plan = plan_transfer(
        source, target, keep="class_rows", target_classes=("newt", "dog"), new_class_init="cat"
    )
    apply_plan(plan, source, target)
    score = target.state_dict()[f"{BOX}.cls_score.weight"]
    assert torch.equal(score, source.tensors[f"{BOX}.cls_score.weight"])


def test_in_place_without_gradients_or_random_numbers(tiny: Tiny) -> None:
    source, target = weights(tiny(3), ("a", "b", "c")), tiny(3, seed=1)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    held = {name: p.data_ptr() for name, p in target.named_parameters()}
    generator = torch.get_rng_state()
    apply_plan(plan_transfer(source, target), source, target)
    assert torch.equal(generator, torch.get_rng_state())
    assert held == {name: p.data_ptr() for name, p in target.named_parameters()}
    assert all(p.is_leaf and p.grad_fn is None for p in optimizer.param_groups[0]["params"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_take_the_targets_dtype(dtype: torch.dtype, tiny: Tiny) -> None:
    source, target = weights(tiny(3).to(dtype), ("a", "b", "c")), tiny(2, seed=1)
    plan = plan_transfer(
        source, target, keep="class_rows", target_classes=("c", "x"), new_class_init="mean"
    )
    apply_plan(plan, source, target)
    for name, tensor in target.state_dict().items():
        assert tensor.dtype == torch.float32
        if tensor.shape == source.tensors[name].shape:
            assert torch.equal(tensor, source.tensors[name].float())


@pytest.mark.parametrize("side", ["model", "source"])
def test_verified_before_the_first_write(side: str, tiny: Tiny) -> None:
    source, target = weights(tiny(3), ("a", "b", "c")), tiny(2, seed=1)
    plan = plan_transfer(source, target)
    if side == "model":
        target = tiny(4, seed=1)
    else:
        source = weights(tiny(4), ("a", "b", "c", "d"))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(TransferPlanError, match=f"another {side}: roi_heads.box_predictor"):
        apply_plan(plan, source, target)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize("keep", ["random_init", "backbone", "all_but_predictors", "class_rows"])
def test_numbers_loaded_by_position_are_initialised_again(keep: str, tiny: Tiny) -> None:
    """What a stock trainer's resume_or_load leaves behind: equal shapes, other names."""
    source, target, twin = weights(tiny(3), ("a", "b", "c")), tiny(3, seed=1), tiny(3, seed=2)
    for model in (target, twin):
        model.load_state_dict(dict(source.tensors))

    def build() -> nn.Module:
        model = tiny(3)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model

    plan = plan_transfer(source, target, keep=keep, target_classes=("c", "x", "y"))
    generator = torch.get_rng_state()
    restored = apply_plan(plan, source, target, build)
    assert torch.equal(generator, torch.get_rng_state())
    expected = {t.target for t in plan.tensors if t.fate in ("initialised", "rows")}
    assert set(restored) == expected
    torch.manual_seed(123)  # another process, at another point of its random sequence
    apply_plan(plan, source, twin, build)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name])
        if name in expected and keep != "class_rows":
            assert not torch.equal(tensor, source.tensors[name])
    if keep == "class_rows":
        score = target.state_dict()[f"{BOX}.cls_score.weight"]
        old = source.tensors[f"{BOX}.cls_score.weight"]
        assert torch.equal(score[[0, -1]], old[[2, -1]])
        assert not (score[1:3] == old[1:3]).any()
    assert apply_plan(plan, source, target) == ()


def test_constants_are_nobodys(tiny: Tiny) -> None:
    """A bias of zeros in both says nothing of where it is from."""
    models = tiny(3), tiny(3, seed=1)
    for model in models:
        model.state_dict()[f"{BOX}.cls_score.bias"].zero_()
    source = weights(models[0], ("a", "b", "c"))
    assert apply_plan(plan_transfer(source, models[1]), source, models[1]) == ()


def test_what_cannot_be_initialised_again_stops_before_writing(tiny: Tiny) -> None:
    source, target = weights(tiny(3), ("a", "b", "c")), tiny(3)
    plan = plan_transfer(source, target, keep="backbone")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(TransferPlanError, match=r"must not move.*MODEL.WEIGHTS ''"):
        apply_plan(plan, source, target)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
