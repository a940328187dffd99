"""A random split: what it keeps, and what it depends on."""

from __future__ import annotations

import json
import logging
import random
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.data import near_duplicates
from transfer_maskrcnn.data.registry import (
    catalog_entry,
    register_catalog,
    register_dataset,
    spec_of,
)
from transfer_maskrcnn.data.split import Split, names_of, val_images
from transfer_maskrcnn.errors import DatasetError


def some(seed: int, count: int, classes: int = 8) -> tuple[list[str], list[set[int]]]:
    """Names, and classes in each image: the first common, the last rare."""
    rng = random.Random(seed)
    shares = [1 / (k + 1) ** 2 for k in range(classes)]
    names = [f"{rng.randrange(4)}/{rng.random()}.jpg" for _ in range(count)]
    return names, [set(rng.choices(range(classes), shares, k=rng.randrange(4))) for _ in names]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("val", [0.1, 0.25, 0.5])
def test_each_class_keeps_its_share(seed: int, val: float) -> None:
    names, labels = some(seed, 400)
    chosen = val_images(names, labels, range(400), Split(val, seed))
    assert abs(len(chosen) - val * 400) <= 8
    for kind in range(-1, 8):
        showing = {i for i, own in enumerate(labels) if kind in (own or {-1})}
        held_out = len(showing & chosen)
        assert abs(held_out - val * len(showing)) <= max(3, 0.06 * len(showing))
        assert len(showing) < 2 or 0 < held_out < len(showing), "some on both sides"


@pytest.mark.parametrize(
    ("labels", "groups", "val"),
    [
        ([{0}, {1}, {1}, {0}], [0, 1, 2, 3], 0.2),  # two of each class, one on each side
        ([{0}] * 9 + [{1}] * 2, [*range(11)], 0.1),  # so small a share that none would be held out
        ([{0}] * 9 + [{1}] * 2, [*range(11)], 0.9),  # nor trained on
        # three rare ones that share images
        ([{0}] * 20 + [{1, 2}, {2, 3}, {3}, {1}], [*range(24)], 0.1),
        ([{0}] * 50 + [{0}], [0] * 50 + [50], 0.2),  # one long video and one image
    ],
)
def test_a_rare_class_is_on_both_sides(
    labels: list[set[int]], groups: list[int], val: float
) -> None:
    for seed in range(20):
        names = [f"{i}.jpg" for i in range(len(labels))]
        chosen = val_images(names, labels, groups, Split(val, seed))
        for kind in set.union(*labels):
            assert {i in chosen for i, own in enumerate(labels) if kind in own} == {True, False}


def test_a_class_of_one_image_is_trained_on() -> None:
    labels = [{0}] * 19 + [{0, 1}]
    for seed in range(20):
        assert 19 not in val_images([*"abcdefghijklmnopqrst"], labels, range(20), Split(0.2, seed))


def test_what_looks_alike_stays_together_and_a_long_video_outweighs_nothing() -> None:
    labels = [{0}] * 300
    names = [f"{i}.jpg" for i in range(300)]
    groups = [i // 5 for i in range(100)] + [99] * 150 + [*range(250, 300)]
    for seed in range(10):
        chosen = val_images(names, labels, groups, Split(0.2, seed))
        for group in set(groups):
            assert len({i in chosen for i in range(300) if groups[i] == group}) == 1
        assert 8 <= len(chosen) <= 62
        assert len({groups[i] for i in chosen}) <= 16, "of 71: not all that is no video"


@pytest.mark.parametrize("seed", range(3))
def test_neither_order_nor_one_image_more_makes_a_difference(seed: int) -> None:
    names, labels = some(seed, 300)
    chosen = {names[i] for i in val_images(names, labels, range(300), Split(0.2, 5))}
    order = random.Random(seed).sample(range(300), 300)
    again = val_images(
        [names[i] for i in order], [labels[i] for i in order], range(300), Split(0.2, 5)
    )
    assert {names[order[i]] for i in again} == chosen
    more = val_images([*names, "new.jpg"], [*labels, {0}], range(301), Split(0.2, 5))
    assert len({[*names, "new.jpg"][i] for i in more} ^ chosen) <= 4
    other = {names[i] for i in val_images(names, labels, range(300), Split(0.2, 6))}
    assert len(other & chosen) < len(chosen) / 2


def test_names_do_not_depend_on_the_machine() -> None:
    files = ["/a/set/images/1.jpg", "/a/set/images/é/2.jpg"]
    assert names_of(files, "/a/set") == ["images/1.jpg", "images/é/2.jpg"]
    moved = [unicodedata.normalize("NFD", f"/b{file}") for file in files]
    assert names_of(moved, "/b/a/set") == names_of(files, "/a/set")
    assert names_of(files, "/elsewhere") == ["1.jpg", "é/2.jpg"]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (0.2, r"split is 0\.2; expected \{val: 0\.2, seed: 0\}"),
        ("val", r"split is 'val'; .*data\.yaml"),  # yolo's own, of a coco set
        ({"val": 0}, "above 0 and below 1"),
        ({"val": 1.0}, "above 0 and below 1"),
        ({"val": "0.2"}, "expected"),
        ({"val": True}, "expected"),
        ({"seed": 0}, "expected"),
        ({"val": 0.2, "seed": -1}, "expected"),
        ({"val": 0.2, "seed": 1.5}, "expected"),
        ({"val": 0.2, "sed": 1}, "has the key 'sed'.*did you mean 'seed'"),
        ({"val": 0.2, 3: 1}, "has the key 3"),
    ],
)
def test_what_is_no_split(stated: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        register_dataset("toy_n", format="coco", annotations="a", image_root="b", split=stated)
    assert not any(name.startswith("toy_n") for name in DatasetCatalog.list())


def test_what_cannot_be_divided() -> None:
    with pytest.raises(DatasetError, match="one image; expected two"):
        val_images(["a"], [{0}], [0], Split(0.2))
    entry = {"format": "coco", "annotations": "a", "image_root": "b", "split": {"val": 0.2}}
    with pytest.raises(DatasetError, match="two ways"):
        register_dataset("toy_n", **entry, hold_out_every=3, part="val")


@pytest.mark.parametrize(("val", "held_out"), [(0.01, 1), (0.25, 3), (0.99, 11)])
def test_of_one_video_the_last_frames_are_held_out(val: float, held_out: int) -> None:
    names = [f"{i}.jpg" for i in range(12)]
    chosen = val_images(names, [{0}] * 12, [0] * 12, Split(val))
    assert chosen == {*range(12 - held_out, 12)}, "in natural order: 11 comes after 2"


@pytest.fixture
def names() -> Iterator[Callable[[], list[str]]]:
    """The names that were registered since."""
    before = set(DatasetCatalog.list())
    yield lambda: sorted(set(DatasetCatalog.list()) - before)
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def write_videos(folder: Path, videos: int = 6, frames: int = 3) -> dict[str, Any]:
    """A COCO json of short videos: frames of one are nearly the same picture."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for number in range(videos * frames):
        video = number // frames
        coarse = np.random.default_rng(video).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
        image[0, 0] = number % 256
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        size = {"height": 48, "width": 64}
        content["images"].append({"id": number, "file_name": f"{number}.png", **size})
        ring = [4.0, 4, 40, 4, 40, 30, 4, 30]
        box = {"bbox": [4, 4, 36, 26], "area": 936, "iscrowd": 0, "segmentation": [ring]}
        own = {"id": number + 1, "image_id": number, "category_id": 1 + video % 2}
        content["annotations"].append({**own, **box})
    (folder / "a.json").write_text(json.dumps(content))
    return {"format": "coco", "annotations": "a.json", "image_root": "images"}


def sides(name: str) -> list[set[str]]:
    parts = (DatasetCatalog.get(f"{name}_{part}") for part in ("train", "val"))
    return [{Path(record["file_name"]).name for record in part} for part in parts]


def test_an_entry_of_a_catalog_becomes_two_datasets(
    tmp_path: Path,
    names: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {**write_videos(tmp_path / "a"), "split": {"val": 0.34, "seed": 1}}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder in "ab":
        path = tmp_path / folder / "my.yaml"
        path.write_text(yaml.safe_dump({f"my_{folder}": entry}))
        assert register_catalog(path) == [f"my_{folder}_train", f"my_{folder}_val"]
        register_catalog(path)  # the same again
    looked = []
    groups = near_duplicates.groups
    monkeypatch.setattr(near_duplicates, "groups", lambda files: looked.append(1) or groups(files))
    with caplog.at_level(logging.INFO, "transfer_maskrcnn"):
        train, val = sides("my_a")
    assert looked == [1], "read once for both"
    assert not train & val and len(train | val) == 18 and len(val) == 6
    assert all(len({f"{3 * v + k}.png" in val for k in range(3)}) == 1 for v in range(6))
    (said,) = [m for m in caplog.messages if "split at random" in m]
    assert "train 12 images (cat 6, dog 6), val 6 images (cat 3, dog 3)" in said
    assert "6 groups that look alike (18 images)" in said
    assert sides("my_b") == [train, val], "wherever it lies"
    assert not hasattr(MetadataCatalog.get("my_a_val"), "json_file"), "it has the other part, too"


def test_a_part_of_its_own(tmp_path: Path, names: Callable[[], list[str]]) -> None:
    """What a catalog says of one side alone registers just that."""
    entry = write_videos(tmp_path)
    paths = {key: str(tmp_path / entry[key]) for key in ("annotations", "image_root")}
    register_dataset("my", **{**entry, **paths}, split={"val": 0.34, "seed": 1})
    both = sides("my")
    for part in ("train", "val"):
        alone = catalog_entry(f"my_{part}")
        assert alone is not None and alone["split"] == {"val": 0.34, "seed": 1}
        path = tmp_path / f"{part}.yaml"
        path.write_text(yaml.safe_dump({f"own_{part}": dict(alone)}))
        assert register_catalog(path) == [f"own_{part}"]
    assert sides("own") == both
    assert names() == ["my_train", "my_val", "own_train", "own_val"]


def test_yolo_has_splits_of_its_own(
    tmp_path: Path,
    names: Callable[[], list[str]],
    write_dataset: Callable[[str, Path], dict[str, Any]],
) -> None:
    entry = write_dataset("yolo", tmp_path)
    entry["annotations"] = str(tmp_path / entry["annotations"])
    assert register_dataset("whole", **entry) == ["whole"]
    assert register_dataset("half", **{**entry, "split": {"val": 0.5}}) == [
        "half_train",
        "half_val",
    ]
    whole = {Path(record["file_name"]).name for record in DatasetCatalog.get("whole")}
    train, val = sides("half")
    assert train | val == whole and train and val and not train & val
    assert spec_of("whole").options == {"split": "train"}  # type: ignore[union-attr]


def test_pictures_are_compared_once_as_long_as_none_changes(
    tmp_path: Path, cache: Path, names: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write_videos(tmp_path)
    paths = {key: str(tmp_path / entry[key]) for key in ("annotations", "image_root")}
    looked: list[int] = []
    groups = near_duplicates.groups
    monkeypatch.setattr(near_duplicates, "groups", lambda files: looked.append(1) or groups(files))
    for number, times in enumerate((1, 1, 2)):
        if number == 2:
            shutil.copyfile(tmp_path / "images/0.png", tmp_path / "images/17.png")
        register_dataset(f"n{number}", **{**entry, **paths}, split={"val": 0.34})
        sides(f"n{number}")
        assert len(looked) == times
