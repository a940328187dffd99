from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.data.formats import LoadedDataset, load_yolo
from transfer_maskrcnn.data.formats.base import Reason
from transfer_maskrcnn.data.formats.yolo import label_path
from transfer_maskrcnn.errors import DatasetError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
TRIANGLE = "1 0.1 0.1 0.5 0.1 0.5 0.5"


@pytest.fixture
def load(tmp_path: Path, make_image: Callable[..., Path], check_counts: Any) -> Any:
    def load(labels: str | None, config: str = YAML, **options: Any) -> LoadedDataset:
        """images/train has a.jpg with ``labels``, and b.jpg with one triangle."""
        for name, text in (("a", labels), ("b", TRIANGLE)):
            make_image(f"images/train/{name}.jpg")
            path = tmp_path / f"labels/train/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                path.write_text(text)
        (tmp_path / "data.yaml").write_text(config)
        dataset = load_yolo(tmp_path / "data.yaml", **options)
        check_counts(dataset)
        return dataset

    return load


def test_polygons_in_pixels(load: Any) -> None:
    dataset = load("0 0.1 0.2 0.5 0.2 0.5 0.6\n\n1.0 0 0 1 0 1 1 0 1\n")
    assert dataset.classes == ("cat", "dog")
    assert dataset.mask_format == "polygon"
    first, second = dataset.dicts[0]["annotations"]
    assert first["segmentation"] == [pytest.approx([3, 4, 15, 4, 15, 12])]
    assert first["bbox"] == pytest.approx([3, 4, 15, 12])
    assert (first["category_id"], second["category_id"]) == (0, 1)
    assert second["bbox"] == [0, 0, 30, 20]


@pytest.mark.parametrize("labels", [None, "", "\n \n"])
def test_background(load: Any, labels: str | None) -> None:
    dataset = load(labels)
    assert [len(d["annotations"]) for d in dataset.dicts] == [0, 1]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("0 0.5 0.5 0.2 0.2", Reason.NO_MASK),
        ("0", Reason.BAD_COORDINATES),
        ("0 0.1 0.1", Reason.TOO_FEW_POINTS),
        ("0 0.1 0.1 0.5 0.1 0.5", Reason.BAD_COORDINATES),
        ("0 0.1 0.1 0.5 x 0.5 0.5", Reason.BAD_COORDINATES),
        ("0 0.1 0.1 0.5 nan 0.5 0.5", Reason.BAD_COORDINATES),
        ("0 10 10 50 10 50 50", Reason.OUTSIDE_IMAGE),  # pixels, not fractions
    ],
)
def test_left_out(load: Any, line: str, reason: str) -> None:
    report = load(f"{TRIANGLE}\n{line}\n").report
    assert report.left_out == {reason: 1}
    place = report.places[reason][0]
    assert (Path(place.image).name, place.part, place.number) == ("a.jpg", "line", 2)


@pytest.mark.parametrize(
    "config, options",
    [
        (YAML, {}),
        ("train: images/train\nnames: {1: dog, 0: cat}", {}),  # no path: beside the data.yaml
        ("train: ../images/train\nnames: [cat, dog]", {}),  # as Roboflow writes it
        ("train: [images/train]\nnames: [cat, dog]", {}),
        ("train: images\nnames: [cat, dog]", {}),  # folders below count too
        ("train: [images, images/train]\nnames: [cat, dog]", {}),  # but no image twice
        ("val: images/train\nnames: [cat, dog]", {"split": "val"}),
        ("path: /no/such\ntrain: images/train\nnames: [cat, dog]", {"image_root": "."}),
        ("train: list.txt\nnames: [cat, dog]", {}),
    ],
)
def test_layouts(load: Any, tmp_path: Path, config: str, options: Any) -> None:
    (tmp_path / "list.txt").write_text(f"./images/train/a.jpg\n{tmp_path}/images/train/b.jpg\n\n")
    if "image_root" in options:
        options = {"image_root": tmp_path}
    dataset = load(TRIANGLE, config, **options)
    assert dataset.classes == ("cat", "dog")
    assert [Path(d["file_name"]).name for d in dataset.dicts] == ["a.jpg", "b.jpg"]
    assert dataset.report.instances_kept == 2


def test_listed_image_missing(load: Any, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("images/train/a.jpg\nimages/train/c.jpg\n")
    report = load(TRIANGLE, "train: list.txt\nnames: [cat, dog]").report
    assert report.images_left_out == {Reason.IMAGE_MISSING: 1}


@pytest.mark.parametrize(
    "image, label",
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/d/images/a.b.png", "/images/d/labels/a.b.txt"),  # the last one counts
        ("/d/photos/a.jpg", "/d/photos/a.txt"),
        ("/d/my_images/a.jpg", "/d/my_images/a.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert label_path(image) == Path(label)


@pytest.mark.parametrize("folder, root", [(".", "."), (".", None), ("images", "..")])
def test_relative_paths(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, root: str | None
) -> None:
    load(TRIANGLE)
    monkeypatch.chdir(tmp_path / folder)
    dataset = load_yolo("data.yaml" if folder == "." else "../data.yaml", root)
    assert dataset.report.instances_kept == 2
    assert label_path("images/a.jpg") == Path.cwd() / "labels/a.txt"


def test_label_files_without_an_image(load: Any, tmp_path: Path) -> None:
    load(TRIANGLE)
    for name in ("c", "classes"):
        (tmp_path / f"labels/train/{name}.txt").write_text(TRIANGLE)
    report = load(TRIANGLE).report
    assert report.images_left_out == {Reason.LABELS_WITHOUT_IMAGE: 1}
    assert str(report.places[Reason.LABELS_WITHOUT_IMAGE][0]).endswith("labels/train/c.txt")


def test_label_files_of_another_split_are_no_orphans(load: Any, tmp_path: Path) -> None:
    load(TRIANGLE)
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n")
    report = load(TRIANGLE, "train: list.txt\nnames: [cat, dog]").report
    assert (report.images_read, report.images_left_out) == (1, {})


@pytest.mark.parametrize(
    "classes, category",
    [(["dog", "cat"], 0), (["cat", "dog"], 1), (["dog"], 0), (["bird", "dog"], 1)],
)
def test_classes(load: Any, classes: list[str], category: int) -> None:
    dataset = load(TRIANGLE, classes=classes)
    assert dataset.classes == tuple(classes)
    assert dataset.dicts[0]["annotations"][0]["category_id"] == category


@pytest.mark.parametrize(
    "labels, config, options, message",
    [
        ("2 0 0 1 0 1 1\n" * 3, YAML, {}, r"that names lacks: '2' \(3 instances\).*\[0, 1\]"),
        ("cat 0 0 1 0 1 1", YAML, {}, r"a\.txt, line 1: 'cat 0 0"),
        ("0.5 0 0 1 0 1 1", YAML, {}, r"a\.txt, line 1: '0.5"),
        ("inf 0 0 1 0 1 1", YAML, {}, r"a\.txt, line 1: 'inf"),
        (TRIANGLE, YAML, {"classes": ["dogs"]}, r"'dog' \(2 instances; did you mean 'dogs'\?\)"),
        (TRIANGLE, YAML, {"split": "test"}, "'test' is None; .*keys of the file: path, train"),
        (TRIANGLE, YAML, {"split": "val"}, r"images/val does not exist; .*Correct the data.yaml"),
        (TRIANGLE, "train: images/train", {}, "names is None; expected a list or dict"),
        (TRIANGLE, "names: []\ntrain: images", {}, r"names is \[\]"),
        (TRIANGLE, "names: {a: cat}\ntrain: images", {}, "has the key 'a'"),
        (TRIANGLE, "names: [cat, cat]\ntrain: images", {}, "'cat' more than once"),
        (TRIANGLE, "names: [cat]\ntrain: 7", {}, "'train' is 7; expected a folder"),
        (TRIANGLE, "names: [cat]\ntrain: []", {}, r"'train' is \[\]"),
        (TRIANGLE, "names: [cat]\ntrain: data.yaml", {}, "is no image; expected one image path"),
        (TRIANGLE, "names: [cat]\npath: 7\ntrain: images", {}, "path of .*7 does not exist"),
        (
            TRIANGLE,
            "names: [cat]\npath: x\ntrain: images",
            {},
            r"path of .*x does not exist.*image_root",
        ),
        (TRIANGLE, "names: [cat\ntrain: images", {}, "is not valid YAML.*line 2"),
        (TRIANGLE, "just text", {}, "is 'just text'; expected a data.yaml"),
        (TRIANGLE, "names: [cat]\ntrain: labels", {}, "lists no images"),
    ],
)
def test_errors(load: Any, labels: str, config: str, options: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(labels, config, **options)


def test_no_label_file_at_all(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    make_image("photos/train/a.jpg")  # the labels would have to lie beside it
    (tmp_path / "data.yaml").write_text("train: photos/train\nnames: [cat]")
    with pytest.raises(
        DatasetError, match=r"none of the 1 images has a label file; .*train/a\.txt"
    ):
        load_yolo(tmp_path / "data.yaml")
