"""Faults that only other formats than COCO have, and the places of instances in their files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.datasets import DatasetSpec, parse
from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.doctor import Diagnosis
from transfer_maskrcnn.doctor.findings import advice

from .conftest import HEIGHT, WIDTH, Planted, blob
from .test_planted_faults import FAULTS

Write = Callable[[Planted, str], DatasetSpec]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """The dataset in another format."""

    def write(planted: Planted, format: str) -> DatasetSpec:
        spec = planted.spec()
        if format == "png_masks":  # which has one class
            for one in planted.annotations:
                one["category_id"] = 1
            planted.content["categories"] = planted.content["categories"][:1]
            spec = planted.spec()
        out = tmp_path / format
        EXPORTERS[format](parse(spec), out)
        places = {
            "yolo": (out / "data.yaml", None),
            "labelme": (out, out),
            "png_masks": (out, out),
        }
        catalog = (out / "catalog.yaml").read_text()
        annotations, image_root = places[format]
        for line in catalog.splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "annotations":
                annotations = out / value
            elif key == "image_root":
                image_root = out / value
        root = None if image_root is None else str(image_root)
        return replace(spec, format=format, annotations=str(annotations), image_root=root)

    return write


def _via(planted: Planted) -> DatasetSpec:
    """The dataset as a VIA 1 json, a region a line."""
    content = {}
    for image in planted.content["images"]:
        name = image["file_name"]
        regions = []
        for one in planted.annotations:
            if one["image_id"] == image["id"]:
                xs, ys = one["segmentation"][0][::2], one["segmentation"][0][1::2]
                shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
                label = planted.content["categories"][one["category_id"] - 1]["name"]
                regions.append({"shape_attributes": shape, "region_attributes": {"class": label}})
        content[f"{name}123"] = {"filename": name, "size": 123, "regions": regions}
    spec = planted.spec()
    lines = json.dumps(content).replace('{"shape', '\n{"shape')
    planted.json.write_text(lines)
    return replace(spec, format="via")


def _place(diagnosis: Diagnosis, kind: str) -> tuple[str, str, int | None, str]:
    """Names of the file and of the image of its first place, with item and line between them."""
    found = [f for f in diagnosis.findings if f.kind == kind]
    assert found, [f.kind for f in diagnosis.findings]
    place = found[0].places[0]
    return Path(place.file).name, place.item, place.line, Path(place.image).name


def _first(folder: str, pattern: str) -> Path:
    return sorted(Path(folder).rglob(pattern))[0]


@pytest.mark.parametrize("format", ["yolo", "labelme", "png_masks", "via"])
def test_a_clean_set_is_clean_in_every_format(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis], format: str
) -> None:
    spec = _via(train) if format == "via" else write(train, format)
    assert diagnose(spec).findings == ()


def test_places_of_via(train: Planted, diagnose: Callable[..., Diagnosis]) -> None:
    train.annotations[4]["segmentation"] = [blob(46, 30, 1.2)]
    # the fifth region of the file; line 1 holds what comes before the first
    expected = ("toy_train.json", "regions[1]", 6, "002.png")
    assert _place(diagnose(_via(train)), "tiny") == expected


def test_places_of_labelme(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis]
) -> None:
    train.annotations[4]["segmentation"] = [blob(46, 30, 1.2)]
    spec = write(train, "labelme")
    _first(spec.annotations, "002.json").rename(Path(spec.annotations, "other.json"))
    file, item, line, image = _place(diagnose(spec), "tiny")
    assert (file, item, image) == ("other.json", "shapes[1]", "002.png") and line


def test_places_of_yolo(train: Planted, write: Write, diagnose: Callable[..., Diagnosis]) -> None:
    train.annotations[4]["segmentation"] = [blob(46, 30, 1.2)]
    assert _place(diagnose(write(train, "yolo")), "tiny") == ("002.txt", "", 2, "002.png")


def test_yolo_labels_without_an_image_and_an_orientation_that_no_size_confirms(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis]
) -> None:
    spec = write(train, "yolo")
    root = Path(spec.annotations).parent
    label = _first(str(root), "003.txt")
    (label.parent / "stray.txt").write_text(label.read_text())
    image = _first(str(root), "004.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).save(image.with_suffix(".jpg"), exif=exif)
    image.unlink()
    diagnosis = diagnose(spec)
    assert _place(diagnosis, "labels_without_image")[0] == "stray.txt"
    assert _place(diagnosis, "exif_unclear")[0] == "004.jpg"


# kind of finding: what is done to each line of the label files, and how many findings there are
LINES: dict[str, tuple[Callable[[str], str], int]] = {
    "confidence": (lambda line: f"{line} 0.9", 24),
    "instance_id": (lambda line: f"{line[:2]}3{line[1:]}", 24),
    "pixels": (lambda line: _scaled(line, WIDTH, HEIGHT), 24),
    "other_unit": (lambda line: _scaled(line, 640, 640), 24),
    "odd_count": (lambda line: f"{line} 0.9" if "0.5" in line[:9] else line, 0),
    "turned_box": (lambda line: f"{line[0]} 0.3 0.2 0.5 0.4 0.4 0.6 0.2 0.4", 24),
    "key_points": (lambda line: "0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.45 0.5 1", 24),
}


def _scaled(line: str, width: int, height: int) -> str:
    number, *values = line.split()
    sizes = (width, height) * len(values)
    scaled = [f"{float(v) * size:.2f}" for v, size in zip(values, sizes, strict=False)]
    return " ".join([number, *scaled])


@pytest.mark.parametrize("kind", LINES)
def test_lines_of_yolo_that_are_no_outlines_in_fractions(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis], kind: str
) -> None:
    spec = write(train, "yolo")
    change, count = LINES[kind]
    for file in Path(spec.annotations).parent.rglob("labels/**/*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(map(change, lines)))
    diagnosis = diagnose(spec)
    assert _place(diagnosis, kind)[0].endswith(".txt")
    found = [f for f in diagnosis.findings if f.kind == kind]
    assert found[0].count == count or not count


def test_yolo_images_without_labels_or_with_another_s(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis]
) -> None:
    spec = write(train, "yolo")
    root = str(Path(spec.annotations).parent)
    _first(root, "003.txt").unlink()
    image = _first(root, "004.png")
    Image.open(image).save(image.with_suffix(".jpg"))
    diagnosis = diagnose(spec)
    assert _place(diagnosis, "image_without_labels")[0] == "003.png"
    found = [f for f in diagnosis.findings if f.kind == "shared_labels"]
    assert [Path(place.file).name for place in found[0].places] == ["004.jpg", "004.png"]


def test_labelme_files_of_another_kind_labels_and_points(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis]
) -> None:
    spec = write(train, "labelme")
    Path(spec.annotations, "package.json").write_text('{"name": "toy"}')
    Path(spec.annotations, "broken.json").write_text('{"shapes": [')
    _first(spec.annotations, "003.json").unlink()
    for number, change in ((2, {"label": "__ignore__"}), (4, {}), (5, {}), (6, {})):
        file = _first(spec.annotations, f"00{number}.json")
        content = json.loads(file.read_text())
        content["shapes"][0] |= change
        if number == 4:
            content["shapes"][0]["points"] = [[*p, 0] for p in content["shapes"][0]["points"]]
        if number == 6:
            content["imagePath"] = content["imagePath"].replace("006", "003")
        if number == 5:
            image = _first(spec.annotations, "005.png")
            content["imageData"] = base64.b64encode(image.read_bytes()).decode()
            image.unlink()
        file.write_text(json.dumps(content, indent=1))
    diagnosis = diagnose(spec)
    assert _place(diagnosis, "other_json")[0] == "package.json"
    assert _place(diagnosis, "broken_json")[0] == "broken.json"
    assert _place(diagnosis, "other_image")[0] == "003.png"
    assert _place(diagnosis, "ignored_label")[1] == "shapes[0]"
    assert _place(diagnosis, "third_coordinate")[1] == "shapes[0]"
    assert _place(diagnosis, "image_in_json")[0] == "005.png"


def test_labelme_images_without_json_labels_without_name_and_points(
    train: Planted, write: Write, diagnose: Callable[..., Diagnosis]
) -> None:
    spec = write(train, "labelme")
    _first(spec.annotations, "003.json").unlink()
    file = _first(spec.annotations, "004.json")
    content = json.loads(file.read_text())
    content["shapes"][0] |= {"shape_type": "point", "points": [[5, 5]]}
    file.write_text(json.dumps(content, indent=1))
    diagnosis = diagnose(spec)
    assert _place(diagnosis, "image_without_json")[0] == "003.png"
    file, item, line, _ = _place(diagnosis, "other_shape")
    assert (file, item) == ("004.json", "shapes[0]") and line
    content["shapes"][0]["label"] = "look here"
    _first(spec.annotations, "004.json").write_text(json.dumps(content, indent=1))
    assert _place(diagnose(spec), "note_shape")[0] == "004.json"


def _again(mask: np.ndarray, value: int, x: int = 0) -> np.ndarray:
    """The object a second time, below and to the right, with another value or the same."""
    return np.where(np.roll(mask, (25, x), axis=(0, 1)) > 0, value, mask).astype(np.uint8)


def _soft(mask: np.ndarray, value: int = 255) -> np.ndarray:
    return cv2.GaussianBlur(mask * value, (7, 7), 2)


def _with_dot(mask: np.ndarray) -> np.ndarray:
    mask[60, 80] = 1
    return mask


# Kind of finding -> what becomes of the masks (None: no file) from the fourth on, of how many, what
# their names have more, and pixel_values.
MASKS: dict[str, tuple[Callable[[np.ndarray], Any], int, str, str | None]] = {
    "image_without_mask_file": (lambda mask: None, 1, "", None),
    "bad_mask_file": (lambda mask: b"nothing", 1, "", None),
    "mask_is_picture": (lambda mask: cv2.resize(PICTURE, mask.shape[::-1]), 1, "", None),
    "mask_seams": (lambda mask: _soft(mask, 200) + _again(mask, 90, 40), 1, "", None),
    "mask_cut": (_soft, 1, "", None),
    "mask_named": (lambda mask: mask, 1, "_mask", None),
    "mask_not_read": (lambda mask: mask, 1, "", None),
    "void": (lambda mask: _again(mask, 255), 1, "", None),
    "stuff": (lambda mask: mask, 1, "_instanceIds", None),
    "semantic_mask": (lambda mask: _again(mask, 1), 3, "", None),
    "scattered": (lambda mask: _again(mask, 1, 45), 1, "", None),
    "fragment": (_with_dot, 1, "", "class"),
}
PICTURE = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)


@pytest.mark.parametrize("kind", MASKS)
def test_masks(tmp_path: Path, diagnose: Callable[..., Diagnosis], kind: str) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    change, number, suffix, pixel_values = MASKS[kind]
    for i in range(14):
        pixels = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(images / f"{i}.png")
        mask = np.zeros((72, 96), np.uint8)
        mask[10:30, 10 + i : 30 + i] = 1
        mask[15, 10 + i] = 0
        changed = change(mask) if 3 <= i < 3 + number else mask
        path = masks / f"{i}{suffix}.png"
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        elif changed is not None:
            Image.fromarray(changed).save(path)
    if kind == "mask_not_read":
        (masks / "3_other.png").write_bytes((masks / "3.png").read_bytes())
    options = {"pixel_values": pixel_values} if pixel_values else {}
    folders = str(masks), str(images)
    spec = DatasetSpec(*("toy", "png_masks", *folders, ("nut",), None, None, None), options=options)
    diagnosis = diagnose(spec)
    (found,) = [f for f in diagnosis.findings if f.kind == kind]
    assert found.count == (14 if suffix else number)
    assert _place(diagnosis, kind)[0] == ("0.png" if suffix else "3.png")


def test_via_regions_without_a_label(train: Planted, diagnose: Callable[..., Diagnosis]) -> None:
    spec = _via(train)
    text = train.json.read_text().split("\n")
    text[5] = (
        text[5].replace('"class": "nut"', '"class": ""').replace('"class": "bolt"', '"class": ""')
    )
    train.json.write_text("\n".join(text))
    assert _place(diagnose(spec), "no_label")[1:] == ("regions[1]", 6, "002.png")


# What the tests of other files, or the one above, plant.
ELSEWHERE = {
    "box_apart",
    *("labels_without_image", "image_without_json", *MASKS),
    *("no_label", "other_shape", "image_without_labels", "shared_labels", "other_json"),
    *("broken_json", "other_image", "note_shape"),
    *("ignored_label", "third_coordinate", "image_in_json", *LINES),
    "lost_with_image",  # beside every image that is left out
    "mapper_failed",  # tests/doctor/test_images.py
    # tests/data/formats/test_files.py
    *("image_too_large", "image_bands", "image_format", "image_unreadable"),
}


def _kinds(faults: Iterable[tuple[object, str, object]]) -> set[str]:
    return {kind for _, kind, _ in faults}


def test_every_kind_of_finding_is_planted() -> None:
    assert _kinds(FAULTS.values()) | ELSEWHERE == set(advice())
