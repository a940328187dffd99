from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.export.documents import _fractions, single_ring
from transfer_maskrcnn.data.export.masks import as_rle
from transfer_maskrcnn.data.formats.masks import polygons_to_rle

from .conftest import HEIGHT, MASKS, RING, WIDTH, Images, MakeDataset, pixels, square

SECOND = [20.0, 2, 26, 2, 26, 8, 20, 8]


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        # one part stays as it is
        ([square(2.5, 3.1, 7)], []),
        ([square(2.5, 3.1, 7), SECOND], ["of several parts"]),
        # the even-odd rule would leave out what both cover
        ([square(2.5, 3.1, 7), square(5, 5, 9)], ["with parts that overlap"]),
        # three parts in a row
        ([square(2, 2, 20), square(30, 2, 2), square(34, 2, 3)], ["of several parts"]),
        (RING, ["with holes"]),
        (pixels((2, 2, 5, 5), (9, 9, 12, 12)), ["of several parts"]),
        (pixels((2, 2, 9, 9), (20, 2, 22, 4), holes=[(4, 4, 5, 5)]), ["of several", "with holes"]),
        # corners only
        (pixels((2, 2, 3, 3), (3, 3, 4, 4)), ["of several parts"]),
    ],
)
def test_single_ring(segmentation: Any, what: list[str]) -> None:
    counts: Counter[str] = Counter()
    ring = single_ring(segmentation, HEIGHT, WIDTH, counts).reshape(-1).tolist()
    assert polygons_to_rle([ring], HEIGHT, WIDTH) == as_rle(segmentation, HEIGHT, WIDTH)
    assert len(counts) == len(what)
    assert all(any(key.startswith(start) for key in counts) for start in what)


def test_files(tmp_path: Path, make_dataset: MakeDataset) -> None:
    images: Images = {
        "a.1.png": [("dog", [square(6, 4, 12)], 0), ("cat", [square(0, 0, 40)], 0)],
        "b.png": [],
    }
    EXPORTERS["yolo"](make_dataset(images), tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert content == {"train": "images", "val": "images", "names": {0: "cat", 1: "dog"}}
    labels = tmp_path / "out" / "labels"
    first, second = (labels / "a.1.txt").read_text().splitlines()
    number, *values = first.split()
    assert number == "1" and second.startswith("0 ")
    expected = [0.1, 0.1, 0.3, 0.1, 0.3, 0.4, 0.1, 0.4]
    assert np.allclose([float(v) for v in values], expected, rtol=1e-15)
    assert (labels / "b.txt").read_text() == ""


def test_what_the_format_could_not_hold(tmp_path: Path, make_dataset: MakeDataset) -> None:
    notes = EXPORTERS["yolo"](make_dataset(MASKS), tmp_path / "out")
    assert notes == [
        "1 crowd region left out: they are not trained on, and yolo has no flag for them. coco has "
        "one.",
        "3 instances of several parts became one line, its parts joined by bridges of no width.",
        "2 instances with holes became one line, the holes cut in by bridges of no width.",
        "train and val in data.yaml are the same images: name others as val to measure AP.",
        "Renamed, since another had the same name: 1 image.",
    ]


@pytest.mark.parametrize("width", [WIDTH, 641, 1333, 4000])
def test_halves_of_a_fifth_stay_on_their_side(width: int) -> None:
    """pycocotools rounds to fifths of a pixel: a last bit lost would move a whole edge."""
    ring = np.arange(1, width * 10, 2).reshape(-1, 1) / 10
    size = np.array([width], dtype=float)
    fifths = np.floor(_fractions(ring, size) * size * 5 + 0.5)
    assert (fifths == np.floor(ring * 5 + 0.5)).all()
