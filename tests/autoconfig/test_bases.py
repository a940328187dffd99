"""The base config follows the weights' architecture, and a CPU where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transfer_maskrcnn.autoconfig.bases import address_of, start_lines, start_of
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.surgery.known import DEFAULT, KNOWN
from transfer_maskrcnn.surgery.load import load_weights

SHAPES = "shapes/shapes_source.pth"


def test_the_architecture_is_that_of_the_tensors(tmp_path: Path) -> None:
    start = start_of(SHAPES)
    assert (start.base, start.is_detector) == ("shapes/Base-shapes.yaml", True)
    tensors = dict(load_weights(start.weights).tensors)
    backbone = {k: v for k, v in tensors.items() if "bottom_up" in k}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    found = start_of(str(tmp_path / "backbone.pth"))
    assert (found.base, found.is_detector) == ("shapes/Base-shapes.yaml", False)
    without = {k: v for k, v in tensors.items() if ".res5." not in k}
    torch.save({"model": without}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"no base config has its backbone; there are Base-R50"):
        start_of(str(tmp_path / "other.pth"))


def test_names() -> None:
    assert start_of(None).weights == address_of(DEFAULT) == KNOWN[DEFAULT].address
    assert not start_of("R-50").is_detector
    assert address_of("https://example.com/a.pkl") == "https://example.com/a.pkl"
    with pytest.raises(WeightFileError, match="no such file; did you mean 'R-50'"):
        address_of("R-5O")


# weights, device, what is frozen
DEVICES = [
    (DEFAULT, "cpu", "backbone_fpn_rpn"),
    ("R-50", "cpu", "backbone"),  # its FPN and RPN have to be learnt
    (DEFAULT, "cuda", None),
    (SHAPES, "cpu", None),  # small enough for a CPU
]


@pytest.mark.parametrize(("weights", "device", "frozen"), DEVICES)
def test_a_cpu_trains_what_it_can(weights: str, device: str, frozen: str | None) -> None:
    start = start_of(weights)
    cfg = load_config(start.base, ["MODEL.DEVICE", device])
    lines = {line.key: line.value for line in start_lines(start, cfg)}
    assert lines.get("MODEL.TRANSFER.FREEZE") == frozen
    if frozen:
        assert (lines["SOLVER.IMS_PER_BATCH"], lines["SOLVER.BASE_LR"]) == (2, 0.00125)
        assert lines["INPUT.MIN_SIZE_TRAIN"] == [lines["INPUT.MIN_SIZE_TEST"]], "one size"
