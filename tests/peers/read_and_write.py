"""What other tools read of our exports, and what they write; for the environment of `make peers`.

    python read_and_write.py FOLDER

FOLDER/<format>/ is an export of ours. Each peer reads it, and writes what it read into
FOLDER/<peer>-<format>/, where it can write. Printed is a json: for each "<peer>-<format>", the stem
of each image -> [class, segmentation] of its instances, as the peer has them; or the error's text.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

COCO_FILE = "annotations/instances_default.json"
Instances = dict[str, list[tuple[str, Any]]]  # stem -> class, polygons or RLE in pixels
Peer = Callable[[Path, Path], Instances]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def pycocotools_coco(folder: Path, out: Path) -> Instances:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / COCO_FILE))
    return {
        Path(image["file_name"]).stem: [
            (coco.loadCats(a["category_id"])[0]["name"], rle(coco.annToMask(a)))
            for a in coco.loadAnns(coco.getAnnIds(image["id"]))
        ]
        for image in coco.dataset["images"]
    }


def supervision_coco(folder: Path, out: Path) -> Instances:
    from supervision import DetectionDataset

    images, file = folder / "images", folder / COCO_FILE
    found = DetectionDataset.from_coco(str(images), str(file), force_masks=True)
    found.as_coco(str(out / "images"), str(out / "annotations.json"))
    return of_supervision(found)


def supervision_yolo(folder: Path, out: Path) -> Instances:
    from supervision import DetectionDataset

    paths = [str(folder / name) for name in ("images", "labels", "data.yaml")]
    found = DetectionDataset.from_yolo(*paths, force_masks=True)
    found.as_yolo(*(str(out / name) for name in ("images", "labels", "data.yaml")))
    return of_supervision(found)


def supervision_labelme(folder: Path, out: Path) -> Instances:
    from supervision import DetectionDataset

    images = str(folder / "images")
    found = DetectionDataset.from_labelme(images, images, force_masks=True)
    found.as_labelme(str(out / "images"), str(out / "images"))
    return of_supervision(found)


def of_supervision(dataset: Any) -> Instances:
    return {
        Path(path).stem: [
            (dataset.classes[number], rle(mask))
            for number, mask in zip(found.class_id, found.mask, strict=True)
        ]
        if len(found)
        else []
        for path, found in dataset.annotations.items()
    }


def ultralytics_yolo(folder: Path, out: Path) -> Instances:
    """Its label check, which drops what it calls corrupt, and duplicates."""
    from ultralytics.data.utils import check_class_names, img2label_paths, verify_image_label
    from ultralytics.utils import YAML

    data = YAML.load(folder / "data.yaml")
    names = check_class_names(data["names"])
    images = sorted(str(path) for path in (folder / data["train"]).iterdir())
    result: Instances = {}
    for image, label in zip(images, img2label_paths(images), strict=True):
        checked = verify_image_label((image, label, "", False, len(names), 0, 0, False))
        _, labels, (height, width), segments, _, missing, _, _, corrupt, message = checked
        assert not (missing or corrupt or message), message
        polygons = [(segment * (width, height)).reshape(-1).tolist() for segment in segments]
        result[Path(image).stem] = [
            (names[int(label[0])], [polygon])
            for label, polygon in zip(labels, polygons, strict=True)
        ]
    return result


def labelme_labelme(folder: Path, out: Path) -> Instances:
    # its editor and its AI tools, hundreds of megabytes that reading and writing need nothing of
    for name in ("onnxruntime", "PyQt5", "PyQt5.QtCore", "PyQt5.QtGui", "PyQt5.QtWidgets"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["PyQt5"].QtGui = sys.modules["PyQt5.QtGui"]  # type: ignore[attr-defined]
    from labelme import LabelFile, utils

    (out / "images").mkdir(parents=True)
    result: Instances = {}
    for path in sorted((folder / "images").glob("*.json")):
        file = LabelFile(str(path))
        with Image.open(path.parent / str(file.image_path)) as image:
            width, height = image.size
        parts: dict[Any, list[Any]] = {}
        for number, shape in enumerate(file.shapes):
            group = shape["group_id"]
            key = (shape["label"], f"alone {number}" if group is None else group)
            parts.setdefault(key, []).append(shape)
        result[path.stem] = [
            (label, of_shapes(shapes, height, width)) for (label, _), shapes in parts.items()
        ]
        shapes = [dict(shape) for shape in file.shapes]
        for shape in shapes:
            shape.update(shape.pop("other_data"))
            if shape["mask"] is not None:
                shape["mask"] = utils.img_arr_to_b64(shape["mask"].astype(np.uint8))
        LabelFile().save(
            filename=str(out / "images" / path.name),
            shapes=shapes,
            image_path=str(file.image_path),
            image_height=height,
            image_width=width,
            image_data=file.image_data,
        )
        (out / "images" / str(file.image_path)).write_bytes(file.image_data or b"")
    return result


def of_shapes(shapes: list[Any], height: int, width: int) -> Any:
    if shapes[0]["shape_type"] == "polygon":
        return [np.reshape(shape["points"], -1).tolist() for shape in shapes]
    full = np.zeros((height, width), bool)
    for shape in shapes:
        (x0, y0), (x1, y1) = np.array(shape["points"]).astype(int).tolist()
        full[y0 : y1 + 1, x0 : x1 + 1] |= shape["mask"]
    return rle(full)


def datumaro_coco(folder: Path, out: Path) -> Instances:
    import datumaro

    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    result: Instances = {}
    for item in dataset:
        parts: dict[int, list[Any]] = {}
        for annotation in item.annotations:
            if annotation.type != datumaro.AnnotationType.bbox:
                parts.setdefault(annotation.group, []).append(annotation)
        result[Path(item.media.path).stem] = [
            (
                names[shapes[0].label],
                [list(shape.points) for shape in shapes]
                if shapes[0].type == datumaro.AnnotationType.polygon
                else rle(np.any([shape.image for shape in shapes], axis=0)),
            )
            for shapes in parts.values()
        ]
    # RLE of crowds; else it fills holes
    dataset.export(str(out), "coco_instances", save_media=True, segmentation_mode="mask")
    return result


PEERS: dict[str, tuple[Peer, str]] = {
    "pycocotools-coco": (pycocotools_coco, "coco"),
    "supervision-coco": (supervision_coco, "coco"),
    "supervision-yolo": (supervision_yolo, "yolo"),
    "supervision-labelme": (supervision_labelme, "labelme"),
    "ultralytics-yolo": (ultralytics_yolo, "yolo"),
    "labelme-labelme": (labelme_labelme, "labelme"),
    "labelme-labelme_masks": (labelme_labelme, "labelme_masks"),
    "datumaro-coco": (datumaro_coco, "coco"),
}


def main(root: Path) -> dict[str, Instances | str]:
    results: dict[str, Instances | str] = {}
    for name, (peer, format) in PEERS.items():
        try:
            results[name] = peer(root / format, root / name)
        except Exception:  # of this peer alone: the others are asked all the same
            results[name] = traceback.format_exc()
    return results


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as settings, contextlib.redirect_stdout(sys.stderr):
        # ultralytics writes settings when it is imported, and looks whether there is a network
        os.environ.update(YOLO_CONFIG_DIR=settings, YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
        found = main(Path(sys.argv[1]))
    print(json.dumps(found))
