"""YOLO segmentation in Ultralytics' layout: a data.yaml, images, and a text file of labels each."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError, refuse
from transfer_maskrcnn.files import parse_yaml

from .assemble import Merge, assemble
from .base import LoadedDataset, Place, RawImage, RawInstance, Reason
from .files import (
    IMAGE_SUFFIXES,
    check_classes,
    clip,
    existing,
    list_counts,
    list_files,
    list_images,
    read_text,
)
from .names import ImageFolder, parts_of
from .yolo_lines import finite, read_numbers

YAML_SUFFIXES = (".yaml", ".yml")


def load_yolo(
    annotations: str | Path,
    image_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    merge: Merge | None = None,
    split: str = "train",
    unlabelled: str = "leave_out",
) -> LoadedDataset:
    """Load one split of an Ultralytics segmentation dataset.

    The labels of ``.../images/a.jpg`` are ``.../labels/a.txt`` (the last ``/images/`` of the path
    counts, or else ``/Images/``), one line an instance: class number, then x y of each point in
    fractions of the image's width and height. An image whose file is empty has no objects. Box-only
    lines (4 numbers), pose labels, label files without an image, and images without a label file
    are left out and counted. A confidence or an instance's number beside all outlines, and pixels
    throughout, are read and counted (``yolo_lines``).

    Args:
        annotations: the data.yaml: ``names`` (list or dict), ``train``, ``val`` (a folder, a text
            file of image paths, or a list of these) and, where they are not relative to the
            data.yaml itself, their root ``path``. Or, where there is no such file, the folder of
            the label files, with classes.txt or obj.names in it or up to two folders above.
        image_root: what ``train`` and ``val`` are relative to; replaces ``path``. Or the folder of
            the images.
        classes: class names, in the order wanted. Default: ``names``.
        merge: class -> the names that become it.
        split: the key of the data.yaml to load.
        unlabelled: what becomes of an image that has no label file: "leave_out", since nobody may
            have annotated it, or "background", as Ultralytics takes it.

    Raises:
        DatasetError: for a file or folder that is missing or broken, class numbers that ``names``
            lacks, labels that ``classes`` lacks, and where no image, or no label file, is found.
    """
    if unlabelled not in ("leave_out", "background"):
        raise DatasetError(f"unlabelled is {unlabelled!r}; expected leave_out or background")
    path = Path(annotations)
    source = f"{path} ({split})"
    if path.is_dir():
        config = {"names": class_names(path), "path": path.name, split: "."}
    else:
        config = read_yaml(existing(path, "data.yaml", "file"))
    names = parse_names(config.get("names"), str(path))
    root = _root(config, path, image_root)
    entries = _entries(config, split, path, root)
    by_file: dict[str, RawImage] = {}
    for image in (image for entry in entries for image in find_images(entry, root)):
        image.image_id = by_file.setdefault(image.file_name, image).image_id or len(by_file)
    images = list(by_file.values())
    _read_labels(images, names, source, unlabelled == "background")
    read_numbers([i for image in images for i in image.instances], config.get("kpt_shape"))
    images += [
        RawImage(str(path), 0, problem=Reason.LABELS_WITHOUT_IMAGE)
        for path in _labels_without_image(list(by_file))
    ]
    known = {name: k for k, name in enumerate(names.values(), start=1)}
    return assemble(images, source, classes, merge, known=known)


def class_names(labels: Path) -> dict[int, str]:
    """Class number -> name, where a folder of label files has no data.yaml; the number, where no
    list of names lies near."""
    for folder in (labels, *labels.absolute().parents[:2]):
        for name in ("classes.txt", "obj.names"):
            if (folder / name).is_file():
                return dict(enumerate(filter(None, read_text(folder / name).splitlines())))
    lines = (line for path in labels.rglob("*.txt") for line in read_text(path).splitlines())
    numbers = {line.split()[0] for line in lines if line.strip()}
    return {int(number): number for number in sorted(filter(str.isdecimal, numbers))}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file. DatasetError names line and column of a syntax error."""
    config = parse_yaml(read_text(path), str(path))
    if not isinstance(config, dict):
        raise DatasetError(
            f"{path} is {clip(repr(config))}; expected a data.yaml with names, train and val"
        )
    return config


def is_yolo(config: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is that of a data.yaml of Ultralytics."""
    return isinstance(config.get("names"), (list, dict)) and "format" not in config["names"]


def parse_names(names: Any, source: str) -> dict[int, str]:
    """Class number -> name, from a list or a dict."""
    if not isinstance(names, (list, dict)) or not names:
        raise DatasetError(
            f"{source}: names is {clip(repr(names))}; expected a list or dict of classes"
        )
    pairs = names if isinstance(names, dict) else dict(enumerate(names))
    wrong = [key for key in pairs if type(key) is not int and not str(key).isdecimal()]
    if wrong:
        raise DatasetError(
            f"{source}: names has the key {wrong[0]!r}; expected class numbers 0, 1, ..."
        )
    unread = [name for name in pairs.values() if type(name) not in (str, int)]
    if unread:
        raise DatasetError(
            f"{source}: names has {unread[0]!r}; expected a list of names, with quotes where YAML "
            'would read a truth value, nothing, a fraction or a date ("no", "null", "1.10")'
        )
    result = {int(key): str(name) for key, name in pairs.items()}
    check_classes(list(result.values()))
    return dict(sorted(result.items()))


def _root(config: dict[str, Any], path: Path, image_root: str | Path | None) -> Path:
    stated = path.parent / str(config.get("path") or "")
    root = stated if image_root is None else Path(image_root)
    if os.path.isdir(root):
        return root
    origin = f"path of {path}: " if image_root is None else "image_root "
    raise DatasetError(
        f"{origin}{root} does not exist; expected the folder that train and val are relative to. "
        "Correct it, or pass image_root"
    )


def _entries(config: dict[str, Any], split: str, path: Path, root: Path) -> list[str]:
    undivided = split == "train" and not config.keys() & {"train", "val", "test"}
    if undivided and (root / "images").is_dir():  # supervision's data.yaml has the names alone
        return ["images"]
    entries = config.get(split)
    entries = entries if isinstance(entries, list) else [entries]
    if entries and all(isinstance(entry, str) and entry for entry in entries):
        return entries
    raise DatasetError(
        f"{path}: split {split!r} is {clip(repr(config.get(split)))}; expected a folder, a text "
        f"file of image paths, or a list of these (keys of the file: {', '.join(map(str, config))})"
    )


def find_images(entry: str, root: Path) -> list[RawImage]:
    """The images of one entry of a split, a folder or a text file with a path a line."""
    path, repairs = find_entry(entry, root)
    if os.path.isdir(path):
        found = list_images(path, recursive=True)
        return [RawImage(str(image), 0, repairs=[*repairs]) for image in found]
    if not os.path.isfile(path):
        raise DatasetError(
            f"{path} does not exist; expected a folder of images or a text file of image "
            "paths. Correct the data.yaml, or pass image_root"
        )
    lines = (line.strip() for line in read_text(path).splitlines())
    images = [RawImage(line, 0) for line in lines if line]
    for name in (image.file_name for image in images):
        if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
            raise DatasetError(f"{path}: {clip(name)} is no image; expected one image path a line")
    ImageFolder(path.parent, root).locate(images)
    for image in images:
        image.file_name = os.path.normpath(image.file_name)
    return images


def find_entry(entry: str, root: Path) -> tuple[Path, list[tuple[Reason, str]]]:
    """Where an entry leads to; and a word where only its last folders do.

    Roboflow writes paths as if the data.yaml lay one folder deeper, others those of their machine.
    """
    parts = parts_of(entry)
    for k in range(len(parts)) if not os.path.exists(root / entry) else ():
        path = root.joinpath(*parts[k:])
        is_plain = k and parts[k:] == ["images"]  # maybe of another part of the dataset
        if os.path.exists(path) and not (is_plain and parts[k - 1] != root.absolute().name):
            word = f"{clip(repr(entry))} is read as {path}"
            return path, [(Reason.FOUND_ELSEWHERE, word)] if k else []
    return root / entry, []


def label_path(image: str) -> Path:
    """Where the labels of an image lie."""
    # absolute, since a path relative to the dataset's own folder begins with "images/"
    path = os.path.abspath(image).replace(os.sep, "/")
    at = path.rfind("/images/") if "/images/" in path else path.lower().rfind("/images/")
    before, after = path[: at + 1], path[at + len("/images") :]
    name = "Labels" if path[at + 1] == "I" and os.path.isdir(f"{before}Labels") else "labels"
    return Path(path if at < 0 else f"{before}{name}{after}").with_suffix(".txt")


def _labels_without_image(files: list[str]) -> Iterator[Path]:
    """Label files without an image, in the label folders that belong to ``files`` alone."""
    labels = {label_path(file) for file in files}
    for folder in sorted({Path(file).parent for file in files}):
        label_folder = label_path(str(folder / "any.jpg")).parent
        if label_folder == Path(os.path.abspath(folder)):
            continue  # beside the images, any text file may lie
        unused = [path for path in list_files(label_folder, (".txt",)) if path not in labels]
        # images of another split may lie in the same folder
        known = {path.stem for path in list_images(folder)} if unused and folder.is_dir() else ()
        yield from (p for p in unused if p.stem not in known and p.name != "classes.txt")


def _read_labels(
    images: Sequence[RawImage], names: dict[int, str], source: str, with_unlabelled: bool
) -> None:
    """Give each image the instances of its label file, or say that it has none."""
    unknown: Counter[str] = Counter()
    sharing: defaultdict[Path, list[RawImage]] = defaultdict(list)
    for image in images:
        path = label_path(image.file_name)
        if path.is_file():
            image.instances = _parse_labels(path, image.file_name, names, unknown)
            sharing[path].append(image)
        elif not with_unlabelled and os.path.isfile(image.file_name):
            image.problem = Reason.IMAGE_WITHOUT_LABELS
    refuse(
        (
            unknown,
            f"{source}: class numbers that names lacks: {list_counts(unknown)}; "
            f"names has {list(names)[:100]}. Add them to names, or correct the label files",
        ),
        (
            images and not sharing,
            f"{source}: none of the {len(images)} images has a label file; expected, for the "
            f"first, {label_path(images[0].file_name) if images else ''}",
        ),
        error=DatasetError,
    )
    for path, those in sharing.items():
        for image in those if len(those) > 1 else ():
            note = f"{path.name} is of {len(those)} images"
            image.doubts.append((Reason.SHARED_LABELS, note))


def _parse_labels(
    path: Path, image: str, names: dict[int, str], unknown: Counter[str]
) -> list[RawInstance]:
    """The lines of one label file, each with all numbers behind its class as one polygon; class
    numbers that ``names`` lacks go into ``unknown``."""
    instances = []
    lines = enumerate(read_text(path).splitlines(), start=1)
    for number, line in ((number, line) for number, line in lines if line.strip()):
        first, *rest = line.split()
        kind = finite([first]) or [math.nan]
        if len(rest) == 9 and finite(rest[:7]) and not finite(rest[7:8]):
            raise DatasetError(
                f"{path}, line {number}: {clip(line)!r} looks like DOTA's: four corners of a "
                "turned box, a class name and a difficulty; expected a class number, then x y of "
                "each point of an outline. Annotate outlines; Mask R-CNN learns masks"
            )
        if not kind[0].is_integer():
            raise DatasetError(
                f"{path}, line {number}: {clip(line)!r}; expected a class number, "
                "then x y of each point"
            )
        if kind[0] not in names:
            unknown[first] += 1
            continue
        label, numbers = names[int(kind[0])], finite(rest)
        instance = RawInstance(Place(image, "line", number), label, [numbers], relative=True)
        instance.problem = None if numbers else Reason.BAD_COORDINATES
        instances.append(instance)
    return instances
