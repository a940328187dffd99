"""docs/formats.md: the files of each tree are generated, and its catalog is read as it stands."""

from __future__ import annotations

import inspect
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.files import IMAGE_SUFFIXES
from transfer_maskrcnn.data.registry import register_catalog

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
SIDE = 64
BOXES = {"cat": (4, 6, 30, 28), "dog": (36, 30, 60, 58)}  # x0, y0, x1, y1 in every image


class Example(NamedTuple):
    title: str
    files: dict[str, str]  # of the tree, with what is said of each
    texts: dict[str, str]  # what stands on the page


def examples() -> Iterator[Example]:
    """Of each heading with a tree."""
    for section in re.split(r"^#{2,3} ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        trees = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
        blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", section, re.DOTALL)
        assert len(trees) == bool(blocks), section
        for tree in trees:
            yield Example(section.splitlines()[0], tree_of(tree), dict(blocks))


def tree_of(text: str) -> dict[str, str]:
    """The files of a tree in which two blanks are a level and folders end in /."""
    folders: list[str] = []
    files = {}
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, note = line.strip().partition("  ")
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            files["".join(folders) + name] = note
    return files


def outline(name: str) -> list[tuple[int, int]]:
    x0, y0, x1, y1 = BOXES[name]
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def picture(path: Path) -> None:
    """Another one for each path."""
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def mask(path: Path, is_of_one: bool) -> None:
    """Of both objects, numbered, or of one: the files of an image take turns."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    turn = len([*path.parent.glob("*.png")]) % len(BOXES)
    for number, (x0, y0, x1, y1) in enumerate(BOXES.values(), start=1):
        if not is_of_one:
            pixels[y0:y1, x0:x1] = number
        elif number == 1 + turn:
            pixels[y0:y1, x0:x1] = 255
    cv2.imwrite(str(path), pixels)


def coco(images: list[str]) -> dict[str, Any]:
    listed = [
        {"id": k, "file_name": name, "height": SIDE, "width": SIDE} for k, name in enumerate(images)
    ]
    annotations = [
        {
            "image_id": image["id"],
            "category_id": category,
            "iscrowd": 0,
            "area": (x1 - x0) * (y1 - y0),
        }
        | {"bbox": [x0, y0, x1 - x0, y1 - y0]}
        | {"segmentation": [[float(value) for point in outline(name) for value in point]]}
        for image in listed
        for category, (name, (x0, y0, x1, y1)) in enumerate(BOXES.items(), start=1)
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": k, "name": name} for k, name in enumerate(BOXES, start=1)]
    if ".rf." in images[0]:  # Roboflow's: a super-category of no instances goes before the classes
        categories = [{"id": 0, "name": "things", "supercategory": "none"}] + [
            {**category, "supercategory": "things"} for category in categories
        ]
    return {"images": listed, "annotations": annotations, "categories": categories}


def via(images: list[str]) -> dict[str, Any]:
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in outline(name)],
                "all_points_y": [y for _, y in outline(name)],
            },
            "region_attributes": {"kind": name, "colour": "red"},
        }
        for name in BOXES
    ]
    return {f"{name}1": {"filename": name, "size": 1, "regions": regions} for name in images}


def labelme(image: str) -> dict[str, Any]:
    shapes = [
        {"label": f"{name}1" if name == "cat" else name, "shape_type": "polygon"}
        | {"points": outline(name), "group_id": None}
        for name in BOXES
    ]
    return {"imagePath": image, "imageHeight": SIDE, "imageWidth": SIDE, "shapes": shapes}


def yolo() -> str:
    numbers = (
        [k, *(v / SIDE for point in outline(name) for v in point)] for k, name in enumerate(BOXES)
    )
    return "\n".join(" ".join(map(str, line)) for line in numbers)


def write(example: Example, folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Everything in the tree."""
    images = [f for f in example.files if Path(f).suffix in IMAGE_SUFFIXES]
    for file, note in example.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = next((e for e in entries.values() if file.startswith(e["annotations"])), {})
        if file in example.texts:
            path.write_text(example.texts[file])
        elif path.suffix in IMAGE_SUFFIXES:
            mask(path, "one object" in note) if note else picture(path)
        elif path.suffix == ".txt":
            path.write_text(yolo())
        elif entry.get("format") == "labelme":
            (image,) = (i for i in images if Path(i).with_suffix(".json") == Path(file))
            path.write_text(json.dumps(labelme(Path(image).name)))
        else:
            root = f"{entry.get('image_root', Path(file).parent)}/"
            own = [image.removeprefix(root) for image in images if image.startswith(root)]
            path.write_text(json.dumps({"coco": coco, "via": via}[entry["format"]](own)))


@pytest.mark.parametrize("example", [*examples()], ids=lambda example: example.title)
def test_an_example(example: Example, tmp_path: Path) -> None:
    entries = yaml.safe_load(example.texts["my.yaml"])
    assert set(example.texts) <= set(example.files), "texts of files of the tree"
    write(example, tmp_path, entries)
    before = set(DatasetCatalog.list())
    try:
        names = register_catalog(tmp_path / "my.yaml")
        loaded = {name: DatasetCatalog.get(name) for name in names}
        files = [record["file_name"] for records in loaded.values() for record in records]
        found = {Path(file).resolve().relative_to(tmp_path.resolve()).as_posix() for file in files}
        pictures = {
            f for f, note in example.files.items() if Path(f).suffix in IMAGE_SUFFIXES and not note
        }
        assert found == pictures and len(files) == len(found), "each picture in one set"
        for name, records in loaded.items():
            assert records and all(len(record["annotations"]) == 2 for record in records)
            classes = MetadataCatalog.get(name).thing_classes
            entry = entries.get(name) or entries[name.rpartition("_")[0]]
            assert classes == entry.get("classes", ["cat", "dog"])
            assert not DatasetCatalog[name].loaded.report.needs_a_look
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name)


@pytest.mark.parametrize("format", FORMATS)
def test_every_option_is_explained(format: str) -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (own,) = [section for section in sections if section.startswith(f"{format}\n")]
    common = {"annotations", "image_root", "classes", "merge"}
    options = inspect.signature(FORMATS[format]).parameters.keys() - common
    assert set(re.findall(r"^\| `(\w+): ", own, re.MULTILINE)) == options
