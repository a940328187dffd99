"""Which ResNet a set of tensor names and shapes is, and how two of them differ."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from transfer_maskrcnn.surgery.parts import part_of
from transfer_maskrcnn.surgery.problems import Problem

_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.(conv[123]|shortcut)\.weight$")
_DEPTHS: dict[tuple[object, ...], int] = {
    ("basic", 2, 2, 2, 2): 18,
    ("basic", 3, 4, 6, 3): 34,
    ("bottleneck", 3, 4, 6, 3): 50,
    ("bottleneck", 3, 4, 23, 3): 101,
    ("bottleneck", 3, 8, 36, 3): 152,
}


@dataclass(frozen=True)
class Backbone:
    """A ResNet's outline: blocks of res2..res5 and the channels of its stem, blocks and groups."""

    kind: str
    blocks: tuple[int, ...]
    stem: int
    res2_out: int
    inner: int
    group_width: int

    @property
    def name(self) -> str:
        depth = _DEPTHS.get((self.kind, *self.blocks))
        blocks = "-".join(map(str, self.blocks))
        return f"ResNet-{depth}" if depth else f"a ResNet with {blocks} {self.kind} blocks"


def describe_backbone(tensors: Mapping[str, Tensor]) -> Backbone | None:
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
    last = first.get("conv3", first["conv2"])
    return Backbone(
        "bottleneck" if "conv3" in first else "basic",
        tuple(blocks[stage] for stage in sorted(blocks)),
        stem,
        last[0],
        first["conv1"][0],
        first["conv2"][1],
    )


def backbone_problem(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Problem | None:
    """Says in configuration keys how the source's backbone is another one; None if it is not."""
    a, b = describe_backbone(source), describe_backbone(target)
    if a is None or b is None:
        return None
    common = min(len(a.blocks), len(b.blocks))
    texts, keys = [], []
    if (a.kind, a.blocks[:common]) != (b.kind, b.blocks[:common]):
        texts.append(f"depth ({a.name} in the source, {b.name} in the target)")
        depth = _DEPTHS.get((a.kind, *a.blocks))
        keys += [f"MODEL.RESNETS.DEPTH {depth}"] if depth else []
    groups = a.inner // max(a.group_width, 1)
    for what, old, new, key in (
        ("stem width", a.stem, b.stem, f"STEM_OUT_CHANNELS {a.stem}"),
        ("block width", a.res2_out, b.res2_out, f"RES2_OUT_CHANNELS {a.res2_out}"),
        ("inner width", a.inner, b.inner, f"WIDTH_PER_GROUP {a.inner // max(groups, 1)}"),
        ("width of a group", a.group_width, b.group_width, f"NUM_GROUPS {groups}"),
    ):
        if old != new:
            texts.append(f"{what} ({old} channels in the source, {new} in the target)")
            keys.append(f"MODEL.RESNETS.{key}")
    if not texts:
        return None
    text = f"The source's backbone is another one: {'; '.join(texts)}."
    asked = f"Build the source's backbone with {' '.join(keys)}" if keys else "Build the same one"
    return Problem("backbone_differs", text, f"{asked}, or take weights made for this one.")
