"""What an evaluation shows, and which causes of low AP follow from it, by what to mend first.

A kind of mistake costs what its repair would bring. Before any of them come conditions that explain
a whole table of mistakes. Each is a fact, or follows from counts: weights that were never trained,
a setting, classes in another order, detections that have nothing to do with the objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from transfer_maskrcnn.evaluation.bootstrap import (
    Interval,
    ap_interval,
    average_precision,
    mean_ap,
)
from transfer_maskrcnn.evaluation.explain.tide import (
    KINDS,
    SIZES,
    Cause,
    Mistakes,
    Scene,
    count_suppressed,
    find_renaming,
    gains,
    in_size,
)
from transfer_maskrcnn.files import read_json

SETTINGS_FILE, PROPOSALS_FILE, RUN_FILE = "settings.json", "proposals.json", "run.json"

#: points of AP that are not worth a word
NEGLIGIBLE = 0.5
#: a share that makes one part of something the point of it; and how much more often than elsewhere
#: something must go wrong at one size
MOST, HALF, _OFTENER = 0.6, 0.5, 1.5
#: Detectors as good as can be had lose so much of AP50 to stricter thresholds: Mask R-CNN R50-FPN
#: on COCO has box AP 41.0 and mask AP 37.2 of AP50 61.5 and 58.6 (detectron2's model zoo).
_USUAL_LOOSENESS = 0.4
#: AP50, and gain of the best repair of detections, up to which they look like chance
_CHANCE_AP50, _CHANCE_GAIN = 2.0, 25.0
#: score thresholds that come first where objects are lost, or where nothing is detected
_HIGH_THRESHOLD, _SILENCING_THRESHOLD = 0.2, 0.3
#: NMS thresholds that few duplicates reach, and that neighbours do
_NO_SUPPRESSION, OVER_SUPPRESSION = 0.8, 0.3
#: lost objects in a hundred that are many; those that come first, whatever else is wrong
_MANY, _MAJOR = 20.0, 25.0


@dataclass(frozen=True)
class Facts:
    """Settings of an evaluation; None, or empty, where they are not known.

    Attributes:
        score_threshold, nms_threshold, rpn_nms_threshold: 0 to 1.
        detections_per_image: the most detections an image may have.
        min_size_test: the shorter side of an image as the model sees it, in pixels.
        min_size_train: the same in training: all values that it may have.
        rpn_pre_nms_topk: boxes of each of ``rpn_levels`` feature maps that reach the RPN's NMS.
        rpn_post_nms_topk: boxes of an image that leave it.
        untrained: parts of the model whose weights are fresh from their initialisation.
        recall: "100" or "1000" proposals -> "all" or a size -> share of the objects that have a
            proposal of IoU 0.5; None where there is no such object.
        proposed_objects: "all" or a size -> number of objects that these are shares of.
        proposals: "median" and "most" proposals an image, up to 1000.
        iterations: that the model was trained for.
    """

    score_threshold: float | None = None
    nms_threshold: float | None = None
    detections_per_image: int | None = None
    min_size_test: int | None = None
    min_size_train: Sequence[int] = ()
    rpn_pre_nms_topk: int | None = None
    rpn_post_nms_topk: int | None = None
    rpn_nms_threshold: float | None = None
    rpn_levels: int | None = None
    untrained: Sequence[str] = ()
    recall: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    proposed_objects: Mapping[str, int] = field(default_factory=dict)
    proposals: Mapping[str, float] = field(default_factory=dict)
    iterations: int | None = None

    def recall_of(self, proposals: int) -> float | None:
        """The share of all objects that one of the best so many proposals fits."""
        return self.recall.get(str(proposals), {}).get("all")


def read_facts(folder: Path) -> Facts:
    """What ``settings.json`` and ``proposals.json`` of an evaluation say, and the run's
    ``run.json`` of its schedule; one that lacks, nothing.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.

    Raises:
        TransferError: a file is damaged.
    """
    settings = read_json(folder / SETTINGS_FILE, dict, {})
    proposals = read_json(folder / PROPOSALS_FILE, dict, {})
    spec = read_json(folder.parent.parent / RUN_FILE, dict, {}).get("spec") or {}
    known = {one.name for one in fields(Facts)}
    return Facts(
        **{key: value for key, value in settings.items() if key in known},
        recall=proposals.get("recall", {}),
        proposed_objects=proposals.get("objects", {}),
        proposals=proposals.get("proposals", {}),
        iterations=(spec.get("schedule") or {}).get("max_iter"),
    )


@dataclass(frozen=True)
class Group:
    """Objects of one size, or class: how many, and how many are found. Crowds do not count."""

    objects: int
    found: int


@dataclass(frozen=True)
class Repair:
    """One kind of mistake: how many there are, and the AP50 (0 to 100) gained without them.

    Gains do not add up: a repair is worth more, or less, after another. Those of "missed" by size
    are NaN where AP50 is 0: they would say which class has objects of one size alone.
    """

    count: int
    gain: float
    by_size: Mapping[str, float]
    count_by_size: Mapping[str, int]
    by_class: Mapping[str, float]  # of the AP50 of that class; without those that have no object


@dataclass(frozen=True)
class Figures:
    """All that is measured. AP is from 0 to 100; NaN where there is no object.

    Attributes:
        objects, found: but for crowds.
        most_objects: in one image.
        ap_interval: 95 %, over the choice of the images alone; NaN where they are few.
        box_ap: AP of the boxes alone.
        class_ap50: of classes that have objects.
        loose_boxes, loose_masks: AP50 - AP, what stricter thresholds cost: what they cost the
            boxes alone, and the rest.
        renaming: class of the detections -> class that they are, where that is proven.
        beyond: objects beyond TEST.DETECTIONS_PER_IMAGE in images that reach it.
        suppressed: objects that are not found, but overlap a found one of their class by more than
            a low MODEL.ROI_HEADS.NMS_THRESH_TEST, so that NMS removes one of the two.
    """

    task: str
    objects: int
    found: int
    detections: int
    most_objects: int
    ap: float
    ap_interval: Interval
    box_ap: float
    ap50: float
    class_ap50: Mapping[str, float]
    sizes: Mapping[str, Group]
    classes: Mapping[str, Group]
    repairs: Mapping[Cause, Repair]
    loose_boxes: float
    loose_masks: float
    renaming: Mapping[str, str]
    beyond: int
    suppressed: int

    @property
    def lost(self) -> float:
        """The share of objects that no right detection found."""
        return 1 - self.found / max(1, self.objects)

    @property
    def loose(self) -> float:
        """AP50 - AP: what stricter thresholds cost."""
        return self.loose_boxes + self.loose_masks


def measure(
    scene: Scene, mistakes: Mistakes, boxes: Scene, names: Sequence[str], facts: Facts
) -> Figures:
    """Everything.

    Args:
        boxes: matched by boxes, also where ``scene`` is by masks.
        names: of the classes.
    """
    ap, ap50, box_ap = (
        average_precision(scene.coco),
        mean_ap(scene.ap50),
        average_precision(boxes.coco),
    )
    loose_boxes = min(ap50 - ap, mean_ap(boxes.ap50) - box_ap)
    objects = scene.matches.objects.sum(axis=0)
    limit, nms = facts.detections_per_image or np.inf, facts.nms_threshold
    full = np.bincount(scene.matches.image, minlength=len(objects)) >= limit

    def group(members: np.ndarray) -> Group:
        counted = int((members & scene.object_counts).sum())
        return Group(counted, int((members & scene.object_found).sum()))

    def repair(kind: Cause) -> Repair:
        whole, areas = gains(scene, mistakes, [kind]), scene.object_area[mistakes.missed]
        by_size = {size: mean_ap(gains(scene, mistakes, [kind], size)) for size in SIZES}
        if kind != Cause.MISSED:
            areas = mistakes.area[mistakes.kind == KINDS.index(kind)]
        elif not ap50 > 0:
            by_size = dict.fromkeys(SIZES, np.nan)
        return Repair(
            count=len(areas),
            gain=mean_ap(whole),
            by_size=by_size,
            count_by_size={size: int(in_size(areas, size).sum()) for size in SIZES},
            by_class=_by_name(names, whole),
        )

    return Figures(
        task=scene.coco.iou_type,
        objects=int(objects.sum()),
        found=int(scene.object_found.sum()),
        detections=len(scene.found),
        most_objects=int(objects.max(initial=0)),
        ap=ap,
        ap_interval=ap_interval(scene.coco),
        box_ap=box_ap,
        ap50=ap50,
        class_ap50=_by_name(names, scene.ap50),
        sizes={size: group(in_size(scene.object_area, size)) for size in SIZES},
        classes={name: group(scene.object_class == place) for place, name in enumerate(names)},
        repairs={kind: repair(kind) for kind in KINDS},
        loose_boxes=loose_boxes,
        loose_masks=ap50 - ap - loose_boxes,
        renaming={names[seen]: names[meant] for seen, meant in find_renaming(scene).items()},
        beyond=int(np.maximum(objects - limit, 0)[full].sum()),
        suppressed=0 if nms is None or nms >= OVER_SUPPRESSION else count_suppressed(scene, nms),
    )


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {
        name: value
        for name, value in zip(names, values.tolist(), strict=True)
        if not np.isnan(value)
    }


@dataclass(frozen=True)
class Blame:
    """A cause, and how much of AP it costs.

    Attributes:
        gain: points of AP, or of objects in a hundred that it keeps from being found.
        size: "small", "medium" or "large" where most of it lies there, and more than the number of
            such objects explains; else "".
    """

    name: Cause
    gain: float
    size: str = ""


def rank_causes(figures: Figures, facts: Facts) -> list[Blame]:
    """The one to mend first in front; none where nothing is left to repair."""
    if not figures.objects or 100 - figures.ap < NEGLIGIBLE:
        return []
    objects = {size: group.objects for size, group in figures.sizes.items()}
    kinds = []
    for kind, repair in figures.repairs.items():
        # Of what is missed numbers count: a gain by size also tells how classes and sizes mix.
        bad = repair.count_by_size if kind == Cause.MISSED else repair.by_size
        kinds.append(Blame(kind, repair.gain, _standing_out(bad, objects)))
    # Where all else is right, exactness is what is left.
    usual = _USUAL_LOOSENESS if max(blame.gain for blame in kinds) >= NEGLIGIBLE else 0.0
    unusual = max(0.0, 1 - usual * figures.ap50 / figures.loose) if figures.loose > 0 else 0.0
    outlines = {
        Cause.INEXACT_BOXES: figures.loose_boxes,
        Cause.INEXACT_MASKS: figures.loose_masks,
    }
    kinds += [Blame(cause, unusual * points) for cause, points in outlines.items()]
    kinds = sorted((b for b in kinds if b.gain >= NEGLIGIBLE), key=lambda blame: -blame.gain)
    ranked: dict[Cause, Blame] = {}
    for blame in (*_conditions(figures, facts, kinds), *kinds):
        ranked.setdefault(blame.name, blame)
    return list(ranked.values())


def _conditions(figures: Figures, facts: Facts, kinds: Sequence[Blame]) -> list[Blame]:
    """Those that hold, the one to mend first in front.

    Args:
        kinds: of mistakes, by falling gain.
    """
    lacking, lost, threshold = 100 - figures.ap, 100 * figures.lost, facts.score_threshold or 0.0
    first, repairs = kinds[0] if kinds else Blame(Cause.MISSED, 0.0), figures.repairs
    side, trained, twice = facts.min_size_test, facts.min_size_train, repairs[Cause.DUPLICATE]
    far = side and trained and not min(trained) / 2 <= side <= 2 * max(trained)
    mendable = max(r.gain for kind, r in repairs.items() if kind != Cause.MISSED)
    nothing = figures.ap50 < _CHANCE_AP50 and mendable < _CHANCE_GAIN
    silent = nothing and figures.detections < figures.objects
    lame = (facts.nms_threshold or 0) >= _NO_SUPPRESSION and twice.count >= HALF * figures.found > 0
    beyond, merged = (100 * n / figures.objects for n in (figures.beyond, figures.suppressed))
    worth = min(_MAJOR, max(1.0, HALF * first.gain))
    of_boxes = first.name in (Cause.MISSED, Cause.LOCALISATION, Cause.BOTH)
    unseen = _unseen(facts)
    # A mask head of no use does no harm to boxes.
    untrained = any(figures.task == "segm" or "mask" not in part for part in facts.untrained)
    conditions = (
        (untrained, Blame(Cause.UNTRAINED, lacking)),
        (figures.renaming, Blame(Cause.CLASSES, repairs[Cause.CLASSIFICATION].gain)),
        (far and lost >= _MANY / 2, Blame(Cause.INPUT_SIZE, lacking)),
        (nothing and not silent, Blame(Cause.CHANCE, lacking)),
        (silent and threshold > _SILENCING_THRESHOLD, Blame(Cause.ALL_UNDER_THRESHOLD, lacking)),
        (silent, Blame(Cause.NOTHING_FOUND, lacking)),
        (
            figures.box_ap > _CHANCE_AP50 and figures.ap < HALF * figures.box_ap,
            Blame(Cause.MASKS_BEHIND, figures.box_ap - figures.ap),
        ),
        (lame, Blame(Cause.DUPLICATE, twice.gain)),
        (beyond >= worth, Blame(Cause.DETECTIONS_PER_IMAGE, beyond)),
        (merged >= worth, Blame(Cause.SUPPRESSION, merged)),
        (
            threshold >= _HIGH_THRESHOLD and lost >= _MANY,
            Blame(Cause.SCORE_THRESHOLD, repairs[Cause.MISSED].gain),
        ),
        ((of_boxes or unseen.gain >= _MAJOR) and unseen.gain >= HALF * lost > 5, unseen),
    )
    return [blame for holds, blame in conditions if holds]


def _unseen(facts: Facts) -> Blame:
    """The objects that have no proposal."""
    recall, found = facts.recall.get("1000", {}), facts.recall_of(1000)
    sizes = {s: n for s, n in facts.proposed_objects.items() if s in SIZES and n}
    bad = {s: n * (1 - (recall.get(s) or 0.0)) for s, n in sizes.items()}
    missing = 0.0 if found is None else 100 * (1 - found)
    return Blame(Cause.PROPOSALS, missing, _standing_out(bad, sizes))


def _standing_out(bad: Mapping[str, float], objects: Mapping[str, int]) -> str:
    """The size that has most of what is bad, and more for each of its objects than any other size.

    "" where there is none, or objects are of one size alone.
    """
    size = max(bad, key=lambda name: bad[name], default="")
    others = [other for other in bad if other != size and objects[other]]
    stands = bool(others) and bad[size] > 0 and bad[size] >= MOST * sum(bad.values())
    oftener = (bad[size] * objects[o] >= _OFTENER * bad[o] * objects[size] for o in others)
    return size if stands and all(oftener) else ""
