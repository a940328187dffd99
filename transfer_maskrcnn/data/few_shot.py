"""Few-shot subsets: exactly K instances of each class, by seed.

As in TFA (https://arxiv.org/abs/2003.06957): for each class, images that show it are put in a
random order, and all of its instances in an image are taken before the next image is opened, until
there are K. Where an image has more than are wanted yet, TFA passes it over; here, a random part of
them is taken, so that of one seed fewer shots lie within more, and K is always reached.

All other objects of these images lose their annotation: training takes them for background.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.export import coco_document
from transfer_maskrcnn.data.export.base import common_folder
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.text import few, quoted


@dataclass(frozen=True)
class NamedDataset:
    """A registered dataset: its name, detectron2 dicts and ``thing_classes``."""

    name: str
    dicts: Sequence[dict[str, Any]]
    classes: Sequence[str]

    @classmethod
    def registered(cls, name: str) -> NamedDataset:
        """Raises ConfigError where no dataset has that name."""
        if name not in DatasetCatalog:
            raise ConfigError(
                f"no dataset is registered as {name!r} (one of your own is declared in the file "
                f"that --catalog names){nearest(name, DatasetCatalog.list())}"
            )
        dicts = DatasetCatalog.get(name)
        return cls(name, dicts, list(MetadataCatalog.get(name).thing_classes))


@dataclass(frozen=True, slots=True)
class Shot:
    """An instance that may be chosen. It holds no mask: a large dataset has a million of them.

    Attributes:
        image: absolute path.
        key: what tells its image, and it, from all others wherever files lie, in whatever order.
        position: of its dict in the dataset, and of its annotation in that.
    """

    class_name: str
    image: str
    key: tuple[str, str]
    dataset: NamedDataset
    position: tuple[int, int]


class FewShots:
    """The instances of some classes in several datasets, and subsets of them.

    An instance that is a crowd, or has no mask, is none. Classes of equal name are the same, and so
    are instances of equal image file, class and mask.

    Attributes:
        classes: in the order in which they were asked for, else in the datasets'.
        image_root: the folder that holds all images, at some depth.
    """

    def __init__(self, datasets: Sequence[NamedDataset], classes: Sequence[str] = ()):
        """
        Args:
            datasets: with at least one image.
            classes: those wanted; none means all.

        Raises:
            ConfigError: a class that no dataset has.
        """
        known = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
        for name in classes:
            if name not in known:
                raise ConfigError(
                    f"--classes {name}: the datasets have {quoted(known)}{nearest(name, known)}"
                )
        self.classes = tuple(dict.fromkeys(classes)) or known
        shots = _each_once([shot for d in datasets for shot in _shots(d, self.classes)])
        self._of_class = {name: [s for s in shots if s.class_name == name] for name in self.classes}
        self.image_root = common_folder(s.image for s in shots)

    def document(self, shots: int, seed: int) -> dict[str, Any]:
        """The content of a COCO json with ``shots`` instances of each class.

        Of one seed, fewer shots are among more. It does not depend on the order of files, images
        or annotations, nor on where the datasets lie. File names are relative to ``image_root``.
        Image, annotation and category ids count from 1; masks stay as they are.

        Raises:
            ConfigError: a class has fewer instances.
        """
        counts = {name: len(instances) for name, instances in self._of_class.items()}
        lacking = [f"{name!r} has {count}" for name, count in counts.items() if count < shots]
        if lacking:
            most = min(counts.values())
            fix = f"the largest --shots is {most}" if most else "name a dataset that has some"
            raise ConfigError(
                f"--shots {shots}: too few instances (crowds and boxes without a mask do not "
                f"count): {few(lacking, 8)}; {fix}, or choose others with --classes"
            )
        chosen = [
            shot
            for name, instances in self._of_class.items()
            for shot in _in_random_order(instances, f"{seed}/{name}")[:shots]
        ]
        return self._as_coco(chosen)

    def _as_coco(self, chosen: Sequence[Shot]) -> dict[str, Any]:
        records: dict[str, dict[str, Any]] = {}
        for shot in sorted(chosen, key=lambda s: (s.image, s.key)):
            record = shot.dataset.dicts[shot.position[0]]
            image = {
                "file_name": os.path.relpath(shot.image, self.image_root).replace(os.sep, "/"),
                "image_id": len(records) + 1,
                **{side: record[side] for side in ("height", "width")},
                "annotations": [],
            }
            mask = _plain(record["annotations"][shot.position[1]]["segmentation"])
            category = self.classes.index(shot.class_name)
            annotation = {"category_id": category, "segmentation": mask, "iscrowd": 0}
            records.setdefault(shot.image, image)["annotations"].append(annotation)
        return coco_document(list(records.values()), self.classes)


def _shots(dataset: NamedDataset, classes: Collection[str]) -> list[Shot]:
    found = []
    paths = [os.path.abspath(record["file_name"]) for record in dataset.dicts]
    root = common_folder(paths)
    for i, (path, record) in enumerate(zip(paths, dataset.dicts, strict=True)):
        place = f"{dataset.name}/{os.path.relpath(path, root)}"
        for j, annotation in enumerate(record.get("annotations", ())):
            name = dataset.classes[annotation["category_id"]]
            mask = _plain(annotation.get("segmentation"))
            if name in classes and mask and not annotation.get("iscrowd", 0):
                key = (place, _digest(json.dumps(mask, sort_keys=True)))
                found.append(Shot(name, path, key, dataset, (i, j)))
    return found


def _each_once(shots: Sequence[Shot]) -> list[Shot]:
    """Of shots of equal image file, class and mask the one of the first key, in whatever order."""
    files = {image: os.path.realpath(image) for image in {shot.image for shot in shots}}
    ordered = sorted(shots, key=lambda s: s.key, reverse=True)
    return list({(files[s.image], s.class_name, s.key[1]): s for s in ordered}.values())


def _plain(mask: Any) -> Any:
    """Detectron2's own loader keeps the counts of an RLE as bytes, which json has not."""
    if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
        return {**mask, "counts": mask["counts"].decode("ascii")}
    return mask


def _in_random_order(shots: Sequence[Shot], draw: str) -> list[Shot]:
    """Image by image, both images and the instances in one shuffled by ``draw``."""

    def rank(shot: Shot) -> tuple[str, str, str, str]:
        place, mask = shot.key
        return _digest(draw, place), place, _digest(draw, place, mask), mask

    return sorted(shots, key=rank)


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
