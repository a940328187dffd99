"""What a folder or a file is: datasets in the layouts that annotation tools export.

Nothing is registered or written here; ``data/given`` does that with what is found.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES, probe_image, read_json
from transfer_maskrcnn.data.formats.foreign import describe, describe_bytes
from transfer_maskrcnn.data.formats.labelme_via import parse_label
from transfer_maskrcnn.data.formats.mask_files import find_masks
from transfer_maskrcnn.data.formats.names import part_of
from transfer_maskrcnn.data.formats.yolo import (
    YAML_SUFFIXES,
    find_entry,
    is_yolo,
    label_path,
    read_yaml,
)
from transfer_maskrcnn.data.tree import Tree
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few, plural

logger = logging.getLogger(__name__)

# Where several tell of the same images, the first is taken.
_ORDER = ("yolo", "coco", "keypoints", "via", "labelme", "samples", "png_masks", "label_files")
_FORMATS = {"keypoints": "coco", "samples": "png_masks", "label_files": "yolo"}
_DEEP = ("labelme", "png_masks", "label_files")  # whose loaders read the folders in a folder
_MASK_WORDS = re.compile(r"mask|seg|label|annot|gt|truth|inst|target", re.IGNORECASE)
_IMAGE_WORDS = re.compile(r"im(a?ge?s?|\d)|photo|input|raw", re.IGNORECASE)
_INSTANCES = re.compile(r"object|inst", re.IGNORECASE)
_LOOKED_AT = 3  # json files with the name of an image: of which kind one is, all are
_MOST = 200  # other json files that are opened
_BEGINNING = 65_536  # bytes of a file of another tool
_GREYS = 64  # a photograph in grey has more values than this
_ANY_CLASS = "object"
_EXPECTED = """
Expected one of these, also in folders train, valid and test:
  labelme    json files of labelme or X-AnyLabeling, and their images
  coco       a COCO json and its images, as Roboflow, CVAT and others export
  via        via_region_data.json or a project of VIA 2, and its images
  yolo       a data.yaml; or images/ and labels/ with polygons in *.txt
  png_masks  images/ and masks/, JPEGImages/ and SegmentationObject/, PNGImages/
             and PedMasks/; or a folder for each image, with images/ and masks/"""

Files = Mapping[Path, Sequence[str]]


@dataclass(frozen=True)
class Found:
    """One dataset, as a catalog would declare it.

    Attributes:
        kind: as in ``_ORDER``.
        annotations, image_root, options: of the entry; paths begin as the path that was given.
        place: the part of the path that tells it from other datasets there.
        part: "train", "val", "test", or "" where nothing says.
        count, what: how many were seen, of what, as in "12 images".
        covers: the folder of its images.
    """

    kind: str
    annotations: Path
    image_root: Path | None
    place: Path
    part: str
    count: int
    what: str
    covers: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def format(self) -> str:
        return _FORMATS.get(self.kind, self.kind)

    def about(self, start: Path = Path()) -> str:
        """The format, where, and how much of it; paths below ``start`` begin there."""
        where = self.annotations
        where = where.relative_to(start) if where.is_relative_to(start) else where
        return f"{self.format}, {where}, {plural(self.count, self.what)}"

    @property
    def entry(self) -> dict[str, Any]:
        is_file = self.kind in ("coco", "keypoints", "via")
        beside = self.annotations.parent if is_file else self.annotations  # the default
        root = {"image_root": str(self.image_root)} if self.image_root not in (None, beside) else {}
        own = {"format": self.format, "annotations": str(self.annotations)}
        return {**own, **root, **self.options}


def recognise(path: str | os.PathLike[str], format: str | None = None) -> list[Found]:
    """The datasets in a folder, or of a file.

    Args:
        path: a folder, as a tool exported it or with such folders in it; a COCO or VIA json, a
            labelme json (which stands for its folder), or a data.yaml of Ultralytics.
        format: take only this one; without it, where several tell of the same images, the one that
            says most.

    Raises:
        DatasetError: nothing there is a dataset; it says what lies there, and what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected a folder or file of a dataset")
    tree = Tree(path if path.is_dir() else path.parent)
    files = tree.files if path.is_dir() else {path.parent: [path.name]}
    every = [*_yamls(tree, files), *_jsons(tree, files)]
    if path.is_dir():
        every += [*_masks(tree), *_label_files(tree)]
    elif every and every[0].kind != "yolo" and every[0].image_root is None:
        above = path.resolve().parent  # beside which the images lie, as of annotations/train.json
        every = [*_jsons(Tree(above.parent), {above: [path.name]})]
    found = _chosen([one for one in every if format in (None, one.format)])
    if not found and every:
        there = few([one.about(path.parent) for one in every], 4)
        raise DatasetError(f"{path} has no dataset of format {format}, but: {there}")
    if not found:
        raise DatasetError(_nothing(path, tree))
    for problem in tree.broken.values():
        logger.warning("not read: %s", problem)
    order = ("train", "", "val", "test")
    return sorted(found, key=lambda one: (order.index(one.part), str(one.place)))


def _yamls(tree: Tree, files: Files) -> Iterator[Found]:
    """Each split of each data.yaml of Ultralytics whose images are there."""
    for folder, names in files.items():
        for path in (folder / name for name in names if Path(name).suffix.lower() in YAML_SUFFIXES):
            with tree.noting(path):
                if is_yolo(config := read_yaml(path)):
                    yield from _splits(tree, path, config)


def _splits(tree: Tree, path: Path, config: Mapping[str, Any]) -> Iterator[Found]:
    folder, stated = path.parent, Path(str(config.get("path") or "."))
    # as stated; as on another machine; as below the folder of all datasets of Ultralytics
    roots = (folder / stated, folder, folder / stated.name, folder.parent / stated.name)
    splits = {
        key: entries if isinstance(entries, list) else [entries]
        for key in ("train", "val", "valid", "test")
        if (entries := config.get(key)) and isinstance(entries, (str, list))
    } or {"train": ["images"]}  # supervision's names the classes alone
    first = splits.get("train") or next(iter(splits.values()))
    root = next((r for r in roots if any(e.exists() for e in _places(r, first))), roots[0])
    for key, entries in splits.items():
        lying = [path for path in _places(root, entries) if path.exists()]
        if not lying and key != "train":  # Roboflow names a test set that it did not export
            continue
        yield Found(
            *("yolo", path, None if root == roots[0] else root, folder, part_of(key)),
            *(sum(len(tree.images.get(f, ())) for f in lying), "image"),
            covers=Path(os.path.commonpath(lying)) if lying else folder,
            options={} if key == "train" else {"split": key},
        )


def _places(root: Path, entries: Sequence[Any]) -> list[Path]:
    """Where the loader looks for folders and lists of a data.yaml."""
    return [find_entry(str(entry), root)[0] for entry in entries]


def _jsons(tree: Tree, files: Files) -> Iterator[Found]:
    """Each COCO and VIA json, and each folder of labelme's."""
    for folder, names in files.items():
        every = [name for name in names if name.lower().endswith(".json")]
        of_images = [name for name in every if tree.has_image(name)]
        others = [name for name in every if not tree.has_image(name)]
        drawn: list[str] = []  # what labelme's call their images
        for name in (*of_images[:_LOOKED_AT], *others[:_MOST]):
            path = folder / name
            with tree.noting(path):
                kind, called, options = kind_of(data := read_json(path))
                if kind == "labelme":
                    is_there = called and tree.has_image(called[0].replace("\\", "/"))
                    drawn += called if is_there else [name]
                elif kind:
                    place = path.with_suffix("")
                    root = tree.image_root(called, place)
                    yield Found(
                        *(kind, path, root, place, tree.part(place), len(called), "image"),
                        *(root or folder, options),
                    )
                else:
                    tree.unread[path] = f"{path} is {describe(data)}"
        if drawn:
            drawn += of_images[_LOOKED_AT:]
            with tree.noting(folder):
                root = tree.image_root(drawn, folder)
                yield Found(
                    *("labelme", folder, root, folder, tree.part(folder), len(drawn), "json file"),
                    root or folder,
                )


def kind_of(data: Any) -> tuple[str, list[str], dict[str, Any]]:
    """Of which format a json file is, or ""; what it calls its images; options that it needs."""
    if not isinstance(data, dict):
        return "", [], {}
    records, annotations = data.get("images"), data.get("annotations")
    if isinstance(records, list) and isinstance(annotations, list):
        keys = next((a.keys() for a in annotations if isinstance(a, dict)), {"category_id"})
        kind = "keypoints" if "keypoints" in keys else "coco" if "category_id" in keys else ""
        return kind, _texts(records, "file_name"), {}
    if isinstance(data.get("shapes"), list):
        return "labelme", _texts([data], "imagePath"), {}
    entries = data.get("_via_img_metadata", data)
    records = entries.values() if isinstance(entries, dict) else ()
    entries = [e for e in records if isinstance(e, dict) and "regions" in e]
    return "via" if entries else "", _texts(entries, "filename"), _via_classes(entries)


def _texts(records: Sequence[Any], key: str) -> list[str]:
    return [r[key] for r in records if isinstance(r, dict) and isinstance(r.get(key), str)]


def _via_classes(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The one class of all regions, where they have no attribute, or several that say the same."""
    lists = [list(own.values()) if isinstance(own := e["regions"], dict) else own for e in entries]
    regions = [r for own in lists if isinstance(own, list) for r in own if isinstance(r, dict)]
    said = [own for r in regions if isinstance(own := r.get("region_attributes"), dict)]
    labels = {parse_label(value) for own in said for value in own.values()} - {""}
    if len(labels) > 1 or len({name for own in said for name in own}) == 1:
        return {}
    return {"classes": list(labels) or [_ANY_CLASS]}


def _samples(tree: Tree) -> Iterator[Found]:
    """Folders of samples, each with one image in images/ and its masks in masks/."""
    samples: Counter[Path] = Counter(
        folder.parents[1]
        for folder, names in tree.images.items()
        if folder.name == "images"
        and len(names) == 1
        and folder.with_name("masks") in tree.images
        and folder.parent != tree.root
        and not part_of(folder.parent.name)
    )
    for folder, count in samples.items():
        yield Found(
            *("samples", folder, folder, folder, tree.part(folder), count),
            *("sample", folder),
        )


def _masks(tree: Tree) -> Iterator[Found]:
    """Samples; folders of images with the folders of their masks: images/train, masks/train."""
    yield from (samples := list(_samples(tree)))
    folders = [f for f in tree.images if not any(f.is_relative_to(one.covers) for one in samples)]
    masks = {  # a folder named as an image holds the masks of that one
        folder: folder.parent if folder != tree.root and tree.has_image(folder.name) else folder
        for folder in sorted(folders, key=lambda folder: not _INSTANCES.search(folder.name))
        if _are_masks(tree, folder)
    }
    beside: dict[tuple[Path, ...], list[Path]] = defaultdict(list)
    for folder in dict.fromkeys(masks.values()):
        for key in _neighbourhoods(tree, folder):
            beside[key].append(folder)
    for folder in folders:
        keys = [(folder,), *_neighbourhoods(tree, folder)] if folder not in masks else []
        near = [mask for key in keys for mask in beside.get(key, ())] + [folder] * bool(keys)
        counts = ((mask, _masks_of(tree, mask, folder)) for mask in near)
        mask, count = next(filter(lambda both: both[1], counts), (folder, 0))
        if count:
            yield Found(
                *("png_masks", mask, folder, mask, tree.part(mask), count, "mask", folder),
            )


def _neighbourhoods(tree: Tree, folder: Path) -> Iterator[tuple[Path, ...]]:
    """What images/train and masks/train have in common: the path but for one of its folders."""
    for end in range(len(tree.local(folder).parts)):
        yield folder.parents[end], *map(Path, folder.parts[len(folder.parts) - end :])


def _are_masks(tree: Tree, folder: Path) -> bool:
    """By the last of its folders that says so, or by how few values the first of them has."""
    for name in reversed(tree.local(folder).parts):
        if _MASK_WORDS.search(name) or _IMAGE_WORDS.match(name):
            return bool(_MASK_WORDS.search(name))
    return _has_few_values(folder / tree.images[folder][0])


def _has_few_values(file: Path) -> bool:
    if not file.is_file():  # to open a pipe would never end
        return False
    try:
        with Image.open(file) as image:
            is_grey = image.mode == "L" and len(image.getcolors() or range(256)) <= _GREYS
            return is_grey or image.mode in ("1", "P")
    except Exception:  # PIL's decoders raise nearly every type of it on damaged files
        return False


def _masks_of(tree: Tree, masks: Path, images: Path) -> int:
    """How many the loader finds in a folder of most images in another, or beside them; else 0."""
    try:
        masked, _ = find_masks(masks, images, None)
    except DatasetError:  # of several kinds, or one sample a folder: the loader says what to state
        return len(tree.images.get(masks, ())) if masks != images else 0
    paired = [files for image, files in masked if files and os.path.isfile(image.file_name)]
    count = sum(map(len, paired))
    most = 2 * len(paired) >= min(len(masked), len(tree.images.get(masks, masked)))
    return count if most and count and (masks != images or _has_few_values(paired[0][0])) else 0


def _label_files(tree: Tree) -> Iterator[Found]:
    """Folders of images with label files of YOLO, where no data.yaml tells of them."""
    folders = {os.path.abspath(folder): folder for folder in tree.files}
    for folder, names in tree.images.items():
        labels = folders.get(str(label_path(str(folder / "any.jpg")).parent))
        stems = {Path(name).stem for name in names}
        texts = [name for name in tree.files.get(labels or folder, ()) if name.endswith(".txt")]
        of_images = [name for name in texts if Path(name).stem in stems]
        if labels and of_images:
            yield Found(
                *("label_files", labels, folder, folder, tree.part(folder)),
                *(len(of_images), "label file", folder),
            )


def _chosen(found: Sequence[Found]) -> list[Found]:
    """Without what tells again of the same images; folders in a folder as one dataset."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: _ORDER.index(one.kind)):
        other = next((o for o in kept if o.kind != one.kind and _same_images(one, o)), None)
        if other is None:
            kept.append(one)
        elif other.format != one.format or one.kind == "keypoints":
            logger.warning("not read: %s, of the images of: %s", *map(Found.about, (one, other)))
    groups: dict[tuple[Any, ...], list[Found]] = defaultdict(list)
    for number, one in enumerate(kept):
        groups[(one.kind, one.part) if one.kind in _DEEP else (number,)].append(one)
    return _alike_classes([_joined(ones) for ones in groups.values()])


def _same_images(one: Found, other: Found) -> bool:
    """A data.yaml, which lists all of its images, also tells of what lies beside them."""
    if (one.kind, other.kind) == ("label_files", "yolo"):
        return one.covers.is_relative_to(other.place)
    within = one.covers.is_relative_to(other.covers) or other.covers.is_relative_to(one.covers)
    return within and (one.part == other.part or "" in (one.part, other.part))


def _joined(ones: Sequence[Found]) -> Found:
    if len(ones) == 1:
        return ones[0]
    above: dict[str, Any] = {
        key: Path(os.path.commonpath([getattr(one, key) for one in ones]))
        for key in ("annotations", "covers", "place")
    }
    return replace(
        ones[0], **above, image_root=above["covers"], count=sum(one.count for one in ones)
    )


def _alike_classes(found: list[Found]) -> list[Found]:
    """One class for VIA sets that do not name theirs: that of the others, where it is one."""
    named = {c for one in found for c in one.options.get("classes", ())} - {_ANY_CLASS}
    if len(named) != 1:
        return found
    return [
        replace(one, options={"classes": list(named)}) if "classes" in one.options else one
        for one in found
    ]


def _nothing(path: Path, tree: Tree) -> str:
    """What lies in a path that holds no dataset."""
    folders = tree.files if path.is_dir() else {path.parent: [path.name]}
    files = [folder / name for folder, names in folders.items() for name in names]
    first = {file.suffix.lower(): file for file in reversed(files)}
    seen = {file: what for file in first.values() if (what := _begins(file))}
    seen |= {file: what for file, what in (tree.broken | tree.unread).items() if file in files}
    told = "".join(f"\n  {what}" for what in list(seen.values())[:3])
    counts = Counter(file.suffix.lower() or file.name for file in files).most_common()
    there = few([f"{count:,} {suffix}" for suffix, count in counts], 6) or "nothing"
    is_no = "is no dataset" if path.is_file() else f"holds no dataset, but {there}"
    return f"{path} {is_no}.{told}{_EXPECTED}"


def _begins(file: Path) -> str:
    """What a file of another tool is, by how it begins."""
    if not file.is_file() or file.suffix.lower() in (*IMAGE_SUFFIXES, *YAML_SUFFIXES, ".json"):
        return ""
    what = ""
    with suppress(OSError), file.open("rb") as opened:
        what = describe_bytes(opened.read(_BEGINNING))
    probe = probe_image(str(file))
    what = what or (probe.note if probe.problem is Reason.IMAGE_FORMAT else "")
    return f"{file} is {what}" if what else ""
