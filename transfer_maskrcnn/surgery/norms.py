"""Normalisation layers of both sides: the same names can mean things that do not fit together."""

from collections.abc import Mapping
from typing import Any

GROUP, FROZEN, BATCH = "GroupNorm", "FrozenBN", "BatchNorm"


def norm_kinds(names: Mapping[str, Any]) -> dict[str, str]:
    """Norm module -> kind, from the tensors it has (SyncBN and BatchNorm have the same)."""
    leaves: dict[str, set[str]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        leaves.setdefault(module, set()).add(leaf)
    return {
        module: BATCH
        if "num_batches_tracked" in found
        else FROZEN
        if "running_mean" in found
        else GROUP
        for module, found in leaves.items()
        if "running_mean" in found or (module.endswith("norm") and "weight" in found)
    }


def norm_conflicts(
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    partner: Mapping[str, str],
    group_norm: bool,
) -> dict[str, str]:
    """Target norm modules whose source counterpart must not be copied, and why.

    Scale and shift without statistics are either GroupNorm's or a BatchNorm fused into an affine
    layer (Caffe2's). Fused ones are right in a FrozenBN, whose own statistics are the identity.

    Args:
        partner: target name -> source name.
        group_norm: whether the source's norms without statistics are GroupNorms.
    """
    there, conflicts = norm_kinds(source), {}
    for module, kind in norm_kinds(target).items():
        name = partner.get(f"{module}.weight")
        old = there.get(name.rpartition(".")[0]) if name else None
        if old is None or (old == GROUP) == (kind == GROUP):
            continue
        if old != GROUP:
            conflicts[module] = f"norms differ: {old} in the source, {kind} in the target"
        elif group_norm:
            conflicts[module] = f"norms differ: {GROUP} in the source, {kind} in the target"
        elif kind == BATCH:
            conflicts[module] = (
                "norms differ: fused into an affine layer in the source, BatchNorm here"
            )
    return conflicts


def is_group_norm(source: Mapping[str, Any], renamed: Mapping[str, str]) -> bool:
    """Whether norms without statistics are GroupNorms: Caffe2 names say so, and only GroupNorm and
    the trained norms of whole detectors stand outside the backbone."""
    if any("_gn_" in old for old in renamed.values()):
        return True
    kinds = norm_kinds(source)
    outside = [k for m, k in kinds.items() if "fpn_" in m or ".mask_fcn" in m or ".box_head." in m]
    return GROUP in outside
