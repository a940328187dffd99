"""What strict mode refuses about class names and the rows that belong to them."""

from collections.abc import Iterator

from transfer_maskrcnn.surgery.classes import shown
from transfer_maskrcnn.surgery.fates import TensorFate
from transfer_maskrcnn.surgery.parts import part_of
from transfer_maskrcnn.surgery.problems import Problem, Transfer, shown_keep


def class_names(t: Transfer) -> Iterator[Problem]:
    """Predictors kept whole go by position, and only names say what a position means."""
    whole = [f for f in t.fates if f.fate == "kept" and _by_class(t, f)]
    old, new = t.source.classes, t.target_classes
    if t.matching.keep == "class_rows":
        yield from _unknown_names(t)
    elif whole and (old is None or new is None or old != new):
        if old is None or new is None:
            what = f"the class names of the {'source' if old is None else 'target'} are unknown"
        else:
            what = f"the source's classes are {shown(old)}, the target's {shown(new)}"
        yield Problem(
            "class_names",
            f"KEEP {shown_keep(t.matching.keep)} would copy {whole[0].target} and "
            f"{len(whole) - 1} more class predictors by position, but {what}.",
            "Use KEEP class_rows, which copies rows by name, or all_but_predictors.",
        )


def _by_class(t: Transfer, fate: TensorFate) -> bool:
    name = fate.target or ""
    reads = (
        ".point_head." in name and name.endswith("weight") and not isinstance(t.matching.keep, str)
    )
    return part_of(name) == "predictors" or reads


def _unknown_names(t: Transfer) -> Iterator[Problem]:
    if not t.source.tensors or not any(part_of(n) == "predictors" for n in t.source.tensors):
        yield Problem(
            "no_predictors",
            "KEEP class_rows, but the source has no class predictors (it is a backbone or empty).",
            "Use KEEP all_but_predictors.",
        )
        return
    if t.source.classes is None:
        yield Problem(
            "unknown_source_classes",
            f"KEEP class_rows needs the class names of {t.source.path}, and the file does not "
            "carry them.",
            "Set MODEL.TRANSFER.SOURCE_CLASSES to its names in order, or to a registered dataset's "
            'name (["coco_2017_val"] for COCO).',
        )
    if t.target_classes is None:
        yield Problem(
            "unknown_target_classes",
            "KEEP class_rows needs the target's class names, and its dataset has none.",
            "Register the training dataset with thing_classes.",
        )


def class_counts(t: Transfer) -> Iterator[Problem]:
    sides = zip(
        ("source", "target"), (t.source.classes, t.target_classes), t.matching.counts, strict=True
    )
    for side, names, rows in sides:
        if names is not None and rows and len(names) != rows:
            yield Problem(
                "class_count",
                f"The {side} has {len(names)} class names ({shown(names, 4)}) for {rows} classes "
                "in its classifier.",
                "Correct MODEL.TRANSFER.SOURCE_CLASSES."
                if side == "source"
                else "Correct MODEL.ROI_HEADS.NUM_CLASSES or the dataset's thing_classes.",
            )


def rows_apart(t: Transfer) -> Iterator[Problem]:
    """Classifier, regressor and mask rows move together or not at all."""
    if t.matching.keep != "class_rows" or not any(f.fate == "rows" for f in t.fates):
        return
    unfit = [f for f in t.fates if f.target and f.reason.startswith("shapes differ")]
    apart = [f for f in unfit if part_of(f.target or "") == "predictors"]
    if apart:
        more = f" (and {len(apart) - 1} more tensors)" if len(apart) > 1 else ""
        yield Problem(
            "rows_apart",
            f"The rows of {apart[0].target} cannot move with the classifier's: "
            f"{apart[0].reason}{more}.",
            "Set CLS_AGNOSTIC_BBOX_REG and CLS_AGNOSTIC_MASK as the source has them, and the same "
            "channels.",
        )


def unused_class_arguments(t: Transfer) -> Iterator[Problem]:
    if t.matching.keep == "class_rows":
        return
    used = [k for k, v in (("CLASS_MAP", t.class_map), ("NEW_CLASS_INIT", t.new_class_init)) if v]
    if t.new_class_init == "default":
        used = [key for key in used if key != "NEW_CLASS_INIT"]
    if used:
        yield Problem(
            "unused",
            f"{' and '.join(used)} only {'counts' if len(used) == 1 else 'count'} with KEEP "
            f"class_rows; KEEP is {shown_keep(t.matching.keep)}.",
            "Set MODEL.TRANSFER.KEEP class_rows, or remove them.",
        )
