import json

import pytest
import torch

from transfer_maskrcnn.surgery.diff import diff_weights
from transfer_maskrcnn.surgery.load import SourceWeights

OLD = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
# before, after, state, rows changed, |after - before|
PAIRS = [
    (OLD, OLD.clone(), "identical", 0, 0.0),
    (OLD, torch.tensor([[3.0, 4.0], [3.0, 4.0]]), "changed", 1, 5.0),
    # a half-precision copy, from either side, and NaN that stayed NaN
    (OLD / 3, (OLD / 3).half(), "identical", 0, 0.0),
    ((OLD / 3).half(), OLD / 3, "identical", 0, 0.0),
    (torch.tensor([float("nan")]), torch.tensor([float("nan")]), "identical", 0, 0.0),
    (OLD, OLD[0], "other shape", 0, 0.0),
    # norms count their batches in a tensor without axes: seen, but no distance
    (torch.tensor(3), torch.tensor(4), "changed", 1, 0.0),
]


@pytest.mark.parametrize(("a", "b", "state", "rows", "change"), PAIRS)
def test_one_tensor(a: torch.Tensor, b: torch.Tensor, state: str, rows: int, change: float) -> None:
    diff = diff_weights(SourceWeights({"w": a}), SourceWeights({"w": b}))
    assert [(t.state, t.rows_changed, t.change) for t in diff.tensors] == [(state, rows, change)]


def test_part_by_part() -> None:
    a = {"backbone.res2.0.w": OLD, "backbone.res2.1.w": OLD, "roi_heads.box_head.fc1.bias": OLD}
    b = {"backbone.res2.0.w": OLD, "backbone.res2.1.w": OLD + 3, "roi_heads.mask_head.w": OLD}
    diff = diff_weights(SourceWeights(a, "a.pth"), SourceWeights(b, "b.pth"))
    groups = diff.groups()
    assert groups["backbone.res2"]["identical"] == groups["backbone.res2"]["changed"] == 1
    assert (groups["backbone.res2"]["rows_changed"], groups["backbone.res2"]["rows"]) == (2, 4)
    assert groups["backbone.res2"]["distance"] == pytest.approx(6 / 50**0.5)
    assert groups["roi_heads.mask_head"]["only in b"] == 1
    assert groups["roi_heads.box_head"]["only in a"] == 1
    assert sorted(t.name for t in diff.tensors) == sorted({*a, *b})
    assert json.loads(diff.to_json())["groups"] == groups
    lines = diff.table().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["backbone.res2", "1", "1", "2/4", "0.8485"] for line in lines)
    assert "    1 only in b" in lines


def test_a_zoo_backbone_is_compared_with_the_detector_it_became() -> None:
    backbone, detector = (
        {"res2.0.conv1.weight": OLD},
        {"backbone.bottom_up.res2.0.conv1.weight": OLD},
    )
    diff = diff_weights(SourceWeights(backbone), SourceWeights(detector))
    assert [t.state for t in diff.tensors] == ["identical"]


def test_a_step_counter_changes_without_counting_as_distance() -> None:
    before, after = (
        SourceWeights({"bn.weight": torch.ones(2), "bn.num_batches_tracked": torch.tensor(steps)})
        for steps in (100, 200)
    )
    part = diff_weights(before, after).groups()["bn"]
    assert (part["changed"], part["distance"]) == (1, 0.0)
