"""From an instance to the file, the id and the line where a person finds it."""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer_maskrcnn.doctor.findings import Place
from transfer_maskrcnn.doctor.json_lines import element_lines
from transfer_maskrcnn.text import shorten

_COCO = re.compile(r"annotations\[(\d+)\]")
_VIA = re.compile(r"regions\[(\d+)\]")
_LABELME = re.compile(r"shapes\[(\d+)\]")
_YOLO = re.compile(r"line \d+")


class Locator:
    """Where the instances of one dataset stand in its annotation files."""

    def __init__(self, format: str | None, annotations: str):
        self._format = format
        self._annotations = annotations
        self._regions: dict[tuple[str, ...], list[int]] = {}  # keys -> lines

    def place(self, image: str, where: str, note: str = "", drawn: tuple[int, ...] = ()) -> Place:
        """Args:
        image: the image file that the instance is in; "" where that is not known.
        where: as the loader tells it: "annotations[3]", "regions[0]", "shapes[1]", "line 4".
        """
        file, where = self._find(image, where)
        if file != image and image:
            where += f" of {shorten(os.path.basename(image), 40)}"
        return Place(file, shorten(where, 60), note, image if drawn else "", drawn)

    def from_text(self, text: str) -> Place:
        """The place of an instance that a loader's report names: "<image>: <where>"."""
        for pattern in (_COCO, _VIA, _LABELME, _YOLO):
            match = pattern.search(text)
            if match:
                image = text[: match.start()].removesuffix(": ")
                return self.place(image, match.group(), text[match.end() :].removeprefix(": "))
        return Place(text)

    def _find(self, image: str, where: str) -> tuple[str, str]:
        find = {"coco": self._coco, "via": self._via, "labelme": self._labelme, "yolo": self._yolo}
        return find.get(self._format or "", self._elsewhere)(image, where)

    def _elsewhere(self, image: str, where: str) -> tuple[str, str]:
        return image, where

    def _coco(self, image: str, where: str) -> tuple[str, str]:
        match = _COCO.search(where)
        if match is None:
            return image, where
        number = int(match.group(1))
        listed = self._content.get("annotations") if isinstance(self._content, dict) else None
        if isinstance(listed, list) and number < len(listed) and "id" in listed[number]:
            where += f", id {listed[number]['id']}"
        return self._annotations, where + _line(self._coco_lines, number)

    def _via(self, image: str, where: str) -> tuple[str, str]:
        match = _VIA.search(where)
        keys = self._via_keys.get(os.path.basename(image))
        if match is None or keys is None:
            return image, where
        if keys not in self._regions:
            self._regions[keys] = element_lines(self._text, keys)
        return self._annotations, where + _line(self._regions[keys], int(match.group(1)))

    def _labelme(self, image: str, where: str) -> tuple[str, str]:
        match = _LABELME.search(where)
        path = Path(self._annotations, Path(image).with_suffix(".json").name)
        if match is None or not path.is_file():
            return image, where
        lines = element_lines(path.read_text(encoding="utf-8-sig"), ("shapes",))
        return str(path), where + _line(lines, int(match.group(1)))

    def _yolo(self, image: str, where: str) -> tuple[str, str]:
        head, _, tail = image.rpartition(f"{os.sep}images{os.sep}")
        path = Path(head, "labels", tail).with_suffix(".txt")
        return (str(path), where) if path.is_file() else (image, where)

    @cached_property
    def _text(self) -> str:
        try:
            return Path(self._annotations).read_text(encoding="utf-8-sig")
        except (OSError, ValueError):
            return ""

    @cached_property
    def _content(self) -> Any:
        try:
            return json.loads(self._text)
        except ValueError:
            return None

    @cached_property
    def _coco_lines(self) -> list[int]:
        return element_lines(self._text, ("annotations",))

    @cached_property
    def _via_keys(self) -> dict[str, tuple[str, ...]]:
        """Base name of an image -> the keys that lead to its regions."""
        above: tuple[str, ...] = ()
        content = self._content if isinstance(self._content, dict) else {}
        if isinstance(content.get("_via_img_metadata"), dict):
            above, content = ("_via_img_metadata",), content["_via_img_metadata"]
        return {
            os.path.basename(entry["filename"]): (*above, key, "regions")
            for key, entry in content.items()
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str)
        }


def _line(lines: list[int], number: int) -> str:
    """Where a whole file is one line, its number helps nobody."""
    if number >= len(lines) or lines[-1] == 1:
        return ""
    return f", line {lines[number]}"
