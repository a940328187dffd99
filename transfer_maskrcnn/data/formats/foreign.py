"""Annotation files of other tools, told apart by their keys: what each is, and how to get on.

Sources: the export pages of CVAT, Label Studio, Supervisely, ISAT, Datumaro, VIA and Labelbox.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .base import is_panoptic

_COCO = "export them as COCO json (format: coco)"
_BOXES = "has boxes and no outlines, which Mask R-CNN learns from"
# Keys of the top object, or of the first item of a list -> what has them; the first that fits.
_KINDS: dict[str, tuple[tuple[frozenset[str], str], ...]] = {
    "dict": tuple(
        (frozenset(keys.split()), words)
        for keys, words in (
            ("shapes", "a labelme json (format: labelme, whose annotations are a folder of them)"),
            ("_via_img_metadata", "a VIA json (format: via)"),
            ("project metadata view", f"a VIA 3 project, which is not supported: {_COCO}"),
            (
                "categories items",
                "a Datumaro json; convert its folder: datum convert -if datumaro -i FOLDER "
                "-f coco_instances -o OUT -- --save-media",
            ),
            ("size objects", f"a Supervisely json; {_COCO}, with its app Export to COCO"),
            ("classes tags", "the meta.json of Supervisely, which has no annotations"),
            ("info objects", "an ISAT json; convert it with ISAT's menu Tools, to COCO"),
            ("data_row", f"a Labelbox export; {_COCO}, with Labelbox's converter"),
            ("item annotations", f"a V7 Darwin json; {_COCO}"),
            ("metadata instances", f"a SuperAnnotate json; {_COCO}, with its converter"),
            ("imgHeight objects", "a Cityscapes json; take its instanceIds (format: png_masks)"),
            ("label_classes images", f"a Hasty json; {_COCO}"),
            ("type features", f"a GeoJSON; its coordinates are of a map or a slide: {_COCO}"),
        )
    ),
    "list": tuple(
        (frozenset(keys.split()), words)
        for keys, words in (
            ("image_id category_id", "a COCO results file, which holds predictions, no truth"),
            ("data annotations", f"a Label Studio json; {_COCO}, or brush labels as PNG"),
            ("data completions", f"an old Label Studio json; {_COCO}"),
            (
                "annotation_id annotator",
                f"a Label Studio JSON-MIN; {_COCO}, or brush labels as PNG",
            ),
            ("data_row", f"a Labelbox export; {_COCO}, with Labelbox's converter"),
            ("name labels", f"a BDD100K (Scalabel) json; {_COCO}, with Scalabel's converter"),
            ("image annotations", f"a CreateML json, which {_BOXES}"),
        )
    ),
}
# What a file that is no json begins with -> what it is.
_BEGINNINGS = {
    rb"PK\x03\x04": "a zip archive; unzip it, and name what is in it",
    rb"\x1f\x8b|Rar!|7z\xbc\xaf": "an archive; unpack it, and name what is in it",
    rb"\s*<[^>]*>?\s*<annotations>|\s*<annotations>": (
        "CVAT's own XML; export the task as COCO 1.0 (format: coco)"
    ),
    rb"\s*(<\?[^>]*>)?\s*<annotation\b": (
        f"a Pascal VOC or LabelImg XML, which {_BOXES}; VOC's outlines are the PNGs in "
        "SegmentationObject (format: png_masks)"
    ),
    rb"\s*<": "XML or a web page",
    rb"[^\n]*region_shape_attributes": (
        "a VIA csv; in VIA, choose Export Annotations (as json) (format: via)"
    ),
    rb"[^\n]*EncodedPixels": "a csv of run lengths; draw each as a mask (format: png_masks)",
    rb"[^\n]*xmin[^\n]*ymax": f"a csv which {_BOXES}",
    rb"[^\n{[]*,[^\n{[]*,[^\n]*": f"a csv; {_COCO}",
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file itself: git lfs pull",
    rb"[^{[]*\b(names|train)\s*:": "a data.yaml (format: yolo)",
}


def describe(data: Any) -> str:
    """What kind of annotation file ``data`` comes from, and the format or the way to use it."""
    first = data[0] if isinstance(data, list) and data else data
    if not isinstance(first, dict):
        shown = repr(data) if not isinstance(data, list) else f"a list of {len(data)} items"
        return shown[:80]
    if first is data and isinstance(data.get("images"), list) and "annotations" in data:
        panoptic = "COCO panoptic, whose outlines are PNGs; take the instances_*.json"
        return panoptic if is_panoptic(data) else "a COCO json (format: coco)"
    if first is data and any(isinstance(v, dict) and "regions" in v for v in data.values()):
        return "a VIA json (format: via)"
    for keys, words in _KINDS["dict" if first is data else "list"]:
        if keys <= first.keys():
            return words
    listed = ", ".join(map(str, first)) or "(none)"
    where = "an object" if first is data else f"a list of {len(data)} objects"
    return f"{where} with the keys {listed[:80]}"


def describe_bytes(content: bytes) -> str:
    """What a file is that is no json, by how it begins; "" where that is not known."""
    line = content.partition(b"\n")[0]
    try:
        return f"one object a line, each {describe(json.loads(line))}"
    except (ValueError, RecursionError):
        found = (words for begins, words in _BEGINNINGS.items() if re.match(begins, content))
        return next(found, "")
