"""What is odd about whole datasets: classes, images that are there twice, sizes, limits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.near_duplicates import twins
from transfer_maskrcnn.doctor.anchors import IMBALANCE, MATCH_IOU, reach, suggest_sizes
from transfer_maskrcnn.doctor.findings import Finding, Place, Told, finding
from transfer_maskrcnn.doctor.images import Figures
from transfer_maskrcnn.doctor.subject import Examined

_NUMBERED = re.compile(r"(.*\D)[_\- #(]?(\d+)\)?")
_FEWEST_NUMBERED = 3  # of one stem: "type1" and "type2" may well be classes
_FEW_INSTANCES = 10
_LARGE_FACTOR = 3.0  # an image this many times larger than the input loses most of its detail
_SMALL_SIDE = 16  # pixels of the input, below which objects are hard to find
# Of instances, out of the anchors' reach: COCO itself has 10 to 15 % there with its own anchors, so
# it is worth a word where other sizes would bring back a good part, or where it is very many.
_LEAST_SHARE, _LARGE_SHARE, _WORTHWHILE = 0.05, 0.25, 2 / 3
_STATE_SIZES = ("coco", "labelme")  # formats: a quarter turn shows in the size
# What needs no word where the loader doubts whole sets for the same reason.
_SAID = {
    "only_crowd": Reason.CROWDS,
    "many_pieces": Reason.SEMANTIC_MASK,
    "only_boxes": Reason.TURNED_BOX,
}

Counts = Mapping[str, int]


def told_of_images(one: Examined) -> Iterator[Told]:
    """What the look at each image found: of the image, by the table here, and of its instances."""
    is_mixed = 2 * sum(facts.pixels == "grey" for facts, _ in one.looks) <= len(one.looks)
    kinds = Counter(kind for _, faults in one.looks for kind, *_ in faults)
    all_boxes = kinds["only_boxes"] == sum(one.class_counts.values())
    for i, (facts, faults) in enumerate(one.looks):
        unclear = facts.orientation in (
            (2, 3, 4) if one.spec.format in _STATE_SIZES else range(2, 9)
        )
        of_image: tuple[tuple[str, Any, dict[str, Any]], ...] = (
            ("mapper_failed", facts.failure, {"message": facts.failure}),
            ("exif_unclear", unclear, {"orientation": facts.orientation}),
            ("image_cmyk", facts.pixels == "cmyk", {}),
            ("image_alpha", facts.transparent, {}),
            ("image_grey_mixed", facts.pixels == "grey" and is_mixed, {}),
        )
        found = [(kind, seen, ()) for kind, is_so, seen in of_image if is_so]
        for kind, seen, instances in (*found, *faults):
            if _SAID.get(kind) not in one.dataset.report.doubted:
                told = "all_boxes" if all_boxes and kind == "only_boxes" else kind
                yield told, one.place_of(i, seen, instances), 1


def class_names(one: Examined) -> Iterator[Finding]:
    """Names that number instances, differ by little, or are detectron2's own."""
    counts = one.class_counts
    stems: dict[str, list[str]] = defaultdict(list)
    for match in filter(None, map(_NUMBERED.fullmatch, counts)):
        stems[match[1].rstrip("_- #(").lower()].append(match[0])
    groups = [(stem, *names) for stem, names in stems.items() if len(names) >= _FEWEST_NUMBERED]
    example = dict(zip(("stem", "one", "another"), [*groups, ()][0], strict=False))
    numbered = [name for _, *names in groups for name in names]
    yield _named("instance_numbers", one, numbered, counts, **example)
    pairs = [pair for pair in combinations(counts, 2) if _differ_by_little(*pair)]
    yield _similar(one, pairs, counts, counts)
    background = [name for name in counts if name.strip("_ ").casefold() in ("background", "bg")]
    yield _named("background_class", one, background, counts)


def class_sizes(one: Examined) -> Iterator[Finding]:
    """Classes that are empty, rare or overwhelming."""
    counts = one.class_counts
    present = {name: count for name, count in counts.items() if count}
    if not present:
        place = Place(one.spec.annotations, "" if one.spec.annotations else one.name)
        yield finding("nothing_to_learn", one.name, [place])
    elif not one.is_validation:
        yield _named("class_unused", one, [name for name in counts if not counts[name]], counts)
        few = [name for name, count in present.items() if count < _FEW_INSTANCES]
        yield _named("few_examples", one, few, counts, least=_FEW_INSTANCES)
        most, fewest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        ratio = present[most] / present[fewest]
        if ratio > IMBALANCE:
            places = [_class(name, counts) for name in (most, fewest)]
            yield finding("imbalance", one.name, places, int(ratio), most=most, fewest=fewest)


def compare_classes(train: Examined, validation: Examined) -> Iterator[Finding]:
    """Classes that only one of two sets has."""
    values: Figures = {
        "other": validation.name,
        "names": list(train.dataset.classes),
        "others": list(validation.dataset.classes),
    }
    if values["names"] != values["others"]:
        place = Place(train.spec.annotations)
        yield finding("classes_differ", train.name, [place], **values)
    learnt, scored = train.class_counts, validation.class_counts
    missing = [name for name, count in learnt.items() if count and not scored.get(name)]
    unknown = [name for name, count in scored.items() if count and not learnt.get(name)]
    slips = [(a, b) for a in missing for b in unknown if _differ_by_little(a, b)]
    yield _similar(validation, slips, learnt, scored)
    slipped = {name for pair in slips for name in pair}
    missing, unknown = ([n for n in names if n not in slipped] for names in (missing, unknown))
    yield _named("class_not_in_val", validation, missing, learnt)
    yield _named("class_not_in_train", train, unknown, scored, other=validation.name)


def _class(name: str, counts: Counts) -> Place:
    return Place(classes=(name,), seen={"instances": counts[name]})


def _named(kind: str, one: Examined, names: list[str], counts: Counts, /, **values: Any) -> Finding:
    places = [_class(name, counts) for name in names]
    return finding(kind, one.name, places, names=names, **values)


def _similar(
    one: Examined, pairs: Sequence[tuple[str, str]], counts: Counts, others: Counts
) -> Finding:
    places = [Place(classes=(a, b), seen={"one": counts[a], "other": others[b]}) for a, b in pairs]
    first, second = [*pairs, ("", "")][0]
    return finding("similar_names", one.name, places, first=first, second=second)


def _differ_by_little(a: str, b: str) -> bool:
    """By case, spaces, hyphens, a plural s, or one slip of the pen in a word of five letters."""
    plain = [re.sub(r"[\s_\-.]+", "", name).casefold() for name in (a, b)]
    short, long = sorted(plain, key=len)
    if short == long or long in (short + "s", short + "es"):
        return True
    if len(short) < 5 or re.search(r"\d", short + long):
        return False  # "type 1" and "type 2" differ by what matters
    same = next(
        (i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short)
    )
    a, b = short[same:], long[same:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return swapped or b[1:] in (a, a[1:])  # a letter more, or another one


def copies(among: Examined, of: Examined | None = None) -> Iterator[Finding]:
    """Images of ``of`` that ``among`` has, too; of one set, those that copy an earlier one.

    They are equal byte for byte, or look alike: :mod:`transfer_maskrcnn.data.near_duplicates`.
    """
    apart, of = of is not None, of or among
    facts, others = ([facts for facts, _ in one.looks] for one in (of, among))
    first = {fact.digest: a for a, fact in reversed(list(enumerate(others))) if fact.digest}
    same = {
        b: (first[fact.digest], "same_file")
        for b, fact in enumerate(facts)
        if fact.digest in first and (apart or first[fact.digest] != b)
    }
    alike = twins([f.thumb for f in facts], [f.thumb for f in others] if apart else None)
    found = {b: (a, "looks_like") for b, a in alike.items()} | same
    places = [
        of.place_of(b, {how: among.dataset.dicts[a]["file_name"]})
        for b, (a, how) in sorted(found.items())
    ]
    yield finding(
        "same_image_across" if apart else "same_image_in_set",
        of.name,
        places,
        **{"frames" if 2 * len(alike) > len(facts) else "some": True},
    )


def anchors(one: Examined) -> Iterator[Finding]:
    """Objects that no anchor reaches."""
    measures, settings = one.measures, one.settings
    boxes = measures.boxes_at(one.scales)
    arguments = (settings.anchor_sizes, settings.aspect_ratios, settings.strides)
    out = reach(boxes, *arguments) < MATCH_IOU
    if one.is_validation or not out.any():
        return
    found = suggest_sizes(boxes, *arguments)
    share, best = 1 - found.share_before, 1 - found.share
    helps = best <= _WORTHWHILE * share
    if share < _LEAST_SHARE or (share < _LARGE_SHARE and not helps):
        return
    plain = [[int(s) if s == int(s) else s for s in row] for row in found.values]
    suggestion: Figures = {"sizes": plain, "left": best} if helps else {"larger_input": True}
    small = measures.across_at(one.scales) < min(map(min, settings.anchor_sizes))
    for kind, chosen in (("anchors_small", out & small), ("anchors_large", out & ~small)):
        places = [
            one.place_of(
                int(measures.image_of_box[k]),
                dict(zip(("width", "height"), boxes[k].tolist(), strict=True)),
                (int(measures.number_of_box[k]),),
            )
            for k in np.flatnonzero(chosen)
        ]
        yield finding(kind, one.name, places, **suggestion, instances=len(boxes), share=share)


def detection_limit(one: Examined) -> Iterator[Finding]:
    """Images with more objects than are detected."""
    limit, counts = one.settings.detections_per_image, one.measures.objects_an_image
    over = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i] > limit]
    most = int(counts.max(initial=0))
    suggestion = -(-most * 5 // 4 // 50) * 50  # a quarter more, in fifties
    places = [one.place_of(i, {"objects": int(counts[i])}) for i in over]
    yield finding("over_limit", one.name, places, limit=limit, most=most, suggestion=suggestion)


def empty_images(one: Examined) -> Iterator[Finding]:
    """Images without objects, and what becomes of them."""
    case = "left_out" if one.settings.filter_empty else "background"
    case = "validation" if one.is_validation else case
    places = [one.place_of(i, {}) for i in one.empty_images]
    yield finding("empty_images", one.name, places, **{case: True})


def large_images(one: Examined) -> Iterator[Finding]:
    """Images that are shrunk until their objects are hardly seen."""
    large = one.scales < 1 / _LARGE_FACTOR
    within = large[one.measures.image_of_box]
    tiny = within & (one.measures.across_at(one.scales) < _SMALL_SIDE)
    sizes = one.measures.images_hw.astype(int).tolist()
    places = [
        one.place_of(i, {"width": sizes[i][1], "height": sizes[i][0]})
        for i in np.flatnonzero(large & tiny.any()).tolist()
    ]
    yield finding(
        *("image_large", one.name, places),
        factor=_LARGE_FACTOR,
        side=_SMALL_SIDE,
        low=one.settings.min_size_test,
        high=one.settings.max_size_test,
        tiny=int(tiny.sum()),
        instances=int(within.sum()),
    )


#: Of one dataset. A new check is a function and a line here, and its words in advice.yaml. What it
#: yields without a place is not told.
CHECKS: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    class_names,
    class_sizes,
    copies,
    anchors,
    detection_limit,
    empty_images,
    large_images,
)
#: Of a training set and a validation set that belong together.
PAIR_CHECKS: tuple[Callable[[Examined, Examined], Iterator[Finding]], ...] = (
    compare_classes,
    copies,
)
