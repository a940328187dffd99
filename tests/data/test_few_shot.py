"""K instances of each class: exactly, nested, and whatever the order of the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer_maskrcnn.data.few_shot import FewShots, NamedDataset
from transfer_maskrcnn.errors import ConfigError

Boxes = Sequence[tuple[str, int]]  # class, and where its rectangle begins, in pixels


def dataset(name: str, classes: Sequence[str], images: Sequence[Boxes], **more: Any) -> Any:
    dicts = [
        {
            "file_name": f"/data/{name}/{i}.png",
            "image_id": i,
            "height": 50,
            "width": 60,
            "annotations": [annotation(classes.index(c), x, **more) for c, x in boxes],
        }
        for i, boxes in enumerate(images)
    ]
    return NamedDataset(name, dicts, classes)


def annotation(category: int, x: int, iscrowd: int = 0, boxes_only: bool = False) -> dict[str, Any]:
    outline = [float(v) for v in (x, 5, x + 8, 5, x + 8, 20, x, 20)]
    mask = {} if boxes_only else {"segmentation": [outline]}
    return {"category_id": category, **mask, "iscrowd": iscrowd, "bbox": []}


IMAGES: list[Boxes] = [
    [("cat", 1), ("cat", 11), ("dog", 21)],
    [("dog", 2)],
    [("cat", 3), ("dog", 13), ("cat", 23), ("cat", 33)],
    [],
    [("dog", 4), ("cat", 14)],
    [("cat", 5), ("cat", 15)],
]
PETS = dataset("pets", ["cat", "dog"], IMAGES)
BIRDS = dataset("birds", ["owl", "cat"], [[("owl", 1), ("cat", 30)], [("owl", 2), ("owl", 12)]])


def counts(document: dict[str, Any]) -> dict[str, int]:
    names = {c["id"]: c["name"] for c in document["categories"]}
    return dict(Counter(names[a["category_id"]] for a in document["annotations"]))


def instances(document: dict[str, Any]) -> set[tuple[Any, ...]]:
    files = {image["id"]: image["file_name"] for image in document["images"]}
    return {
        (files[a["image_id"]], a["category_id"], json.dumps(a["segmentation"]))
        for a in document["annotations"]
    }


# datasets, classes asked for, shots, instances of each class in the subset
EXACT = [
    ([PETS], [], 1, {"cat": 1, "dog": 1}),
    ([PETS], [], 4, {"cat": 4, "dog": 4}),
    ([PETS], ["dog"], 3, {"dog": 3}),
    # classes of equal name are one, of all datasets together
    ([PETS, BIRDS], [], 3, {"cat": 3, "dog": 3, "owl": 3}),
    ([PETS, BIRDS], ["cat"], 9, {"cat": 9}),
]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("datasets", "classes", "shots", "expected"), EXACT)
def test_exactly_so_many(
    datasets: Any, classes: list[str], shots: int, expected: dict[str, int], seed: int
) -> None:
    document = FewShots(datasets, classes).document(shots, seed)
    assert counts(document) == expected
    shown = {a["image_id"] for a in document["annotations"]}
    assert shown == {image["id"] for image in document["images"]}, "no image without an instance"


def test_fewer_lie_within_more_and_seeds_differ() -> None:
    few = FewShots([PETS])
    drawn = set()
    for seed in range(8):
        sets = [instances(few.document(shots, seed)) for shots in (1, 2, 4)]
        assert sets[0] < sets[1] < sets[2]
        drawn.add(frozenset(sets[0]))
    assert len(drawn) > 4


def test_the_order_and_place_of_files_do_not_matter() -> None:
    def moved(record: dict[str, Any]) -> dict[str, Any]:
        annotations = record["annotations"][::-1]
        place = record["file_name"].replace("/data/", "/elsewhere/deep/")
        return {**record, "file_name": place, "annotations": annotations}

    other = NamedDataset("pets", [moved(r) for r in reversed(PETS.dicts)], ["cat", "dog"])
    for shots in (1, 3):
        assert FewShots([other]).document(shots, 5) == FewShots([PETS]).document(shots, 5)


def test_an_image_is_used_up_before_the_next() -> None:
    images: list[Boxes] = [[("cat", 1), ("cat", 11), ("cat", 21)]] * 6
    document = FewShots([dataset("same", ["cat"], images)]).document(6, 0)
    assert len(document["images"]) == 2


def test_an_image_of_two_datasets_is_one() -> None:
    again = NamedDataset("again", [{**PETS.dicts[0], "annotations": [annotation(0, 44)]}], ["owl"])
    document = FewShots([PETS, again]).document(1, 0)
    files = [image["file_name"] for image in document["images"]]
    assert len(set(files)) == len(files)
    whole = FewShots([PETS, again], ["owl"])
    assert [image["file_name"] for image in whole.document(1, 0)["images"]] == ["0.png"]


def test_an_instance_of_two_datasets_counts_once(tmp_path: Path) -> None:
    """The same file, by whatever path, with the same class and mask; in either order."""
    (tmp_path / "link").symlink_to(tmp_path)
    record = {**PETS.dicts[0], "file_name": f"{tmp_path}/a.png"}
    one = NamedDataset("one", [record], ["cat", "dog"])
    other = [
        annotation(1, 1),
        annotation(0, 11),
        annotation(0, 44),
    ]  # the last is new
    again = {**record, "file_name": f"{tmp_path}/link/a.png", "annotations": other}
    two = NamedDataset("two", [again], ["kitten", "cat"])
    both = FewShots([one, two], ["cat"])
    assert counts(both.document(2, 0)) == {"cat": 2}
    with pytest.raises(ConfigError, match="'cat' has 2"):
        both.document(3, 0)
    assert FewShots([two, one], ["cat"]).document(2, 3) == both.document(2, 3)
    assert counts(FewShots([one, two], ["kitten"]).document(2, 0)) == {"kitten": 2}


def test_names_are_relative_to_a_common_folder() -> None:
    few = FewShots([PETS, BIRDS])
    assert few.image_root == "/data"
    names = {image["file_name"].split("/")[0] for image in few.document(3, 0)["images"]}
    assert names == {"pets", "birds"}


def test_masks_stay_as_they_are() -> None:
    pixels = np.zeros((50, 60), np.uint8, order="F")
    pixels[10:20, 5:30] = 1
    rle = mask_util.encode(pixels)  # counts are bytes, as in detectron2's own dicts
    record = {**PETS.dicts[0], "annotations": [{**annotation(0, 0), "segmentation": rle}]}
    [found] = FewShots([NamedDataset("x", [record], ["cat"])]).document(1, 0)["annotations"]
    assert found["segmentation"] == {"size": [50, 60], "counts": rle["counts"].decode()}
    assert found["bbox"] == [5, 10, 25, 10] and found["area"] == 250
    [polygons] = FewShots([dataset("y", ["cat"], [[("cat", 7)]])]).document(1, 0)["annotations"]
    assert polygons["segmentation"] == annotation(0, 7)["segmentation"]


# datasets, classes asked for, shots, words of the error
MISTAKES = [
    ([PETS], [], 5, r"--shots 5: too few.*'dog' has 4; the largest --shots is 4"),
    ([PETS, BIRDS], [], 10, r"'cat' has 9, 'dog' has 4, 'owl' has 3; the largest --shots is 3"),
    ([PETS], ["dgo"], 1, r"--classes dgo: the datasets have 'cat', 'dog'; did you mean 'dog'"),
    # of many classes, some are named
    (
        [dataset("many", [f"c{i}" for i in range(30)], [[("c0", 1)]])],
        *([], 2, r"'c0' has 1, .*'c7' has 0 and 22 more; name a dataset"),
    ),
    # boxes without a mask do not count
    (
        [dataset("b", ["cat", "dog"], [[("cat", 1)], [("dog", 2)]], boxes_only=True)],
        *(["cat"], 1, r"\(crowds and boxes without a mask do not count\): 'cat' has 0; name a"),
    ),
    # ... of a class that is short
    (
        [PETS, dataset("b", ["owl"], [[("owl", 1)]], boxes_only=True)],
        *(["dog"], 5, r"\(crowds and boxes without a mask do not count\): 'dog' has 4"),
    ),
    # crowds never count
    ([dataset("c", ["cat"], [[("cat", 1)]], iscrowd=1)], [], 1, r"'cat' has 0; name a dataset"),
]


@pytest.mark.parametrize(("datasets", "classes", "shots", "words"), MISTAKES)
def test_mistakes(datasets: Any, classes: list[str], shots: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FewShots(datasets, classes).document(shots, 0)
