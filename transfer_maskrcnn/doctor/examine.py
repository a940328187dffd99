"""The examination: every check over every dataset, and between datasets that belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transfer_maskrcnn.doctor.class_findings import compare_classes, look_at_classes
from transfer_maskrcnn.doctor.findings import Finding, Place, finding, worst_first
from transfer_maskrcnn.doctor.image_facts import ImageFacts
from transfer_maskrcnn.doctor.instances import TINY_SIDE
from transfer_maskrcnn.doctor.loading import load
from transfer_maskrcnn.doctor.same_images import same_across, same_in_set
from transfer_maskrcnn.doctor.scale_findings import look_at_scale, scales_of
from transfer_maskrcnn.doctor.settings import Settings
from transfer_maskrcnn.doctor.subject import Loaded, Subject, belong_together
from transfer_maskrcnn.doctor.workers import Look, Mapper, look_at_images

MOST_PLACES = 1_000  # of one finding
Seen = tuple[Loaded, list[ImageFacts]]
_FOUND_TWICE = ("area_wrong", "other_shape")


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first, and the datasets that could be read."""

    findings: tuple[Finding, ...]
    loaded: tuple[Loaded, ...]

    @property
    def has_errors(self) -> bool:
        return any(f.severity == "error" for f in self.findings)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``: what was examined, and what was found."""
        return {
            "datasets": [_summary(loaded) for loaded in self.loaded],
            "findings": [f.as_json() for f in self.findings],
        }


def examine(
    subjects: Sequence[Subject], settings: Settings, mapper_of: Callable[[str], Mapper]
) -> Diagnosis:
    """Look at datasets, and at each pair of a training and a validation set.

    Args:
        subjects: what to look at. A validation set is compared with the training sets that have
            its name but for "train"; if none has, with a training set that is the only one.
        settings: input sizes, anchors and limits of the config that will train on them.
        mapper_of: for a dataset's ``mask_format``, what takes one of its dicts to model input as
            training does.
    """
    findings: list[Finding] = []
    seen: list[Seen] = []
    files: set[tuple[str | None, str]] = set()
    for subject in subjects:
        loaded, of_loading = load(subject)
        source = (subject.format, subject.annotations)
        if not subject.annotations or source not in files:  # two parts of one file share its losses
            findings += of_loading
        files.add(source)
        if loaded is not None:
            looks = _look(loaded, settings, mapper_of(loaded.dataset.mask_format))
            findings += _of_dataset(loaded, looks, settings)
            seen.append((loaded, [look.facts for look in looks]))
    for train, validation in _pairs(seen):
        findings += compare_classes(train[0], validation[0])
        findings += same_across(*train, *validation)
    return Diagnosis(tuple(worst_first(_merged(findings))), tuple(loaded for loaded, _ in seen))


def _look(loaded: Loaded, settings: Settings, mapper: Mapper) -> list[Look]:
    scales = scales_of(loaded, settings).tolist()
    return look_at_images(loaded.name, loaded.dataset.dicts, scales, mapper)


def _of_dataset(loaded: Loaded, looks: Sequence[Look], settings: Settings) -> Iterator[Finding]:
    facts = [look.facts for look in looks]
    yield from _of_images(loaded, facts)
    yield from same_in_set(loaded, facts)
    yield from _of_instances(loaded, looks, settings)
    yield from look_at_classes(loaded)
    yield from look_at_scale(loaded, settings)


def _pairs(seen: Sequence[Seen]) -> Iterator[tuple[Seen, Seen]]:
    trained = [one for one in seen if not one[0].subject.is_validation]
    for other in seen:
        if other[0].subject.is_validation:
            named = [one for one in trained if belong_together(one[0].name, other[0].name)]
            alone = [one for one in trained if len(trained) == 1 and _share_a_class(one, other)]
            for one in named or alone:
                yield one, other


def _share_a_class(one: Seen, other: Seen) -> bool:
    return not set(one[0].dataset.classes).isdisjoint(other[0].dataset.classes)


def _of_images(loaded: Loaded, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    files = [record["file_name"] for record in loaded.dataset.dicts]
    states_size = loaded.subject.format in ("coco", "labelme")
    grey = sum(fact.pixels == "grey" for fact in facts)
    by_kind: dict[str, list[Place]] = defaultdict(list)
    for file, fact in zip(files, facts, strict=True):
        if fact.failure:
            by_kind["mapper_failed"].append(Place(file, note=fact.failure))
        # A quarter turn would have shown in the size, where the annotations state one.
        if fact.orientation in (2, 3, 4) or (fact.orientation > 4 and not states_size):
            by_kind["exif_unclear"].append(Place(file, note=f"orientation {fact.orientation}"))
        if fact.pixels == "cmyk":
            by_kind["image_cmyk"].append(Place(file, image=file))
        if fact.transparent:
            by_kind["image_alpha"].append(Place(file, image=file))
        if fact.pixels == "grey" and grey <= len(files) / 2:
            by_kind["image_grey_mixed"].append(Place(file, image=file))
    for kind, places in by_kind.items():
        yield finding(kind, loaded.name, places)


def _of_instances(loaded: Loaded, looks: Sequence[Look], settings: Settings) -> Iterator[Finding]:
    places: dict[str, list[Place]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for i, look in enumerate(looks):
        for kind, instances, note in look.instances:
            counts[kind] += 1
            if counts[kind] <= MOST_PLACES:
                file = loaded.dataset.dicts[i]["file_name"]
                where = loaded.place_of(i, instances[0])
                places[kind].append(loaded.locator.place(file, where, note, instances))
    words = {"side": TINY_SIDE, "input": f"{settings.min_size_test} pixels"}
    for kind, found in places.items():
        yield finding(kind, loaded.name, found, counts[kind], **words)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of what the loader and a check of ours found, or the loader in two words."""
    merged: list[Finding] = []
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for f in findings:
        if f.kind in _FOUND_TWICE:
            groups[f.kind, f.dataset].append(f)
        else:
            merged.append(f)
    for (kind, dataset), group in groups.items():
        places = [place for f in group for place in f.places]
        merged.append(finding(kind, dataset, places, sum(f.count for f in group)))
    return merged


def _summary(loaded: Loaded) -> dict[str, Any]:
    dataset, report = loaded.dataset, loaded.dataset.report
    return {
        "name": loaded.name,
        "format": loaded.subject.format,
        "annotations": loaded.subject.annotations,
        "images": len(dataset.dicts),
        "instances": sum(dataset.instances),
        "mask_format": dataset.mask_format,
        "classes": loaded.class_counts(),
        "loader": report.summary(),
    }
