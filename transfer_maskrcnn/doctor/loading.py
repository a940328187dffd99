"""What the loader refused, left out or mended, as findings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

from transfer_maskrcnn.data.formats import base
from transfer_maskrcnn.data.formats.base import LoadReport, Reason
from transfer_maskrcnn.data.formats.files import clip
from transfer_maskrcnn.doctor.findings import Finding, Place, finding
from transfer_maskrcnn.doctor.subject import Loaded, Subject
from transfer_maskrcnn.errors import DatasetError

_MANY_BEYOND = 0.2  # of all instances: more are no careless strokes at the border
# Reasons whose place is an image: "file", or "file: what was seen".
_OF_IMAGES = (
    Reason.IMAGE_OTHER_SIZE,
    Reason.IMAGE_ROTATED,
    Reason.IMAGE_TURNED_TIFF,
    Reason.IMAGE_DEEP,
    Reason.IN_LEFT_OUT_IMAGE,
)


def load(subject: Subject) -> tuple[Loaded | None, list[Finding]]:
    """The dataset, if it can be read, and what is wrong with its files."""
    locator = subject.locator
    try:
        dataset = subject.load()
    except DatasetError as error:
        return None, [finding("unloadable", subject.name, [Place("", note=str(error))])]
    loaded = Loaded(subject, dataset, locator)
    return loaded, list(_findings(loaded))


def _findings(loaded: Loaded) -> Iterator[Finding]:
    report = loaded.dataset.report
    for counts in (report.images_left_out, report.left_out, report.repaired):
        for reason, count in counts.items():
            if reason == Reason.IMAGE_UNREADABLE:
                yield from _unreadable(loaded.name, report.places[reason], count)
            else:
                kind = reason.value
                if reason == Reason.CLIPPED and _is_misplaced(report):
                    kind = "misplaced"
                places = [_place(loaded, reason, place) for place in report.places[reason]]
                values = {"instances": report.instances_read}
                yield finding(kind, loaded.name, places, count, **values)


def _is_misplaced(report: LoadReport) -> bool:
    beyond = report.repaired[Reason.CLIPPED] + report.left_out[Reason.OUTSIDE_IMAGE]
    return beyond > _MANY_BEYOND * report.instances_read


def _place(loaded: Loaded, reason: Reason, place: base.Place) -> Place:
    if reason == Reason.IMAGE_MISSING:
        return Place(place.image, note=_similar_file(place.image))
    if reason in _OF_IMAGES:
        return Place(place.image, note=place.note)
    return loaded.locator.from_text(str(place))


def _similar_file(path: str) -> str:
    """Where a missing image may be: the same name in other letters, or with another suffix."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    similar = _by_stem(folder).get(os.path.splitext(name)[0].lower())
    return f"there is {similar}" if similar else ""


@lru_cache(maxsize=16)
def _by_stem(folder: str) -> dict[str, str]:
    return {os.path.splitext(name)[0].lower(): name for name in sorted(os.listdir(folder))}


def _unreadable(dataset: str, unreadable: list[base.Place], count: int) -> Iterator[Finding]:
    """Unreadable images, told apart by what the files hold."""
    by_kind: dict[str, list[Place]] = {}
    for file in (place.image for place in unreadable):
        kind, note = _why_unreadable(file)
        by_kind.setdefault(kind, []).append(Place(file, note=note))
    for kind, places in by_kind.items():
        # The few that were counted, but whose places were not kept, are like most of the others.
        surplus = count - len(unreadable) if len(places) == max(map(len, by_kind.values())) else 0
        yield finding(kind, dataset, places, len(places) + surplus)


def _why_unreadable(file: str) -> tuple[str, str]:
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except OSError as error:
        return "image_truncated", str(error.strerror or error)
    if not head:
        return "image_empty", ""
    signatures = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*", b"MM\x00*", b"RIFF", b"GIF8", b"P")
    if head.startswith(signatures):
        return "image_truncated", ""
    shown = clip(head[:40].decode("ascii", errors="replace").split("\n")[0])
    return "image_no_image", f"begins with {shown!r}"
