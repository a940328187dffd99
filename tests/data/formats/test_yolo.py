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


@pytest.mark.parametrize(
    ("labels", "options"), [("", {}), ("\n \n", {}), (None, {"unlabelled": "background"})]
)
def test_background(load: Any, labels: str | None, options: Any) -> None:
    dataset = load(labels, **options)
    assert [len(d["annotations"]) for d in dataset.dicts] == [0, 1]


def test_an_image_that_was_never_annotated_is_no_background(load: Any) -> None:
    dataset = load(None)
    assert [Path(d["file_name"]).name for d in dataset.dicts] == ["b.jpg"]
    assert dataset.report.images_left_out == {Reason.IMAGE_WITHOUT_LABELS: 1}


def test_two_images_on_one_label_file(load: Any, make_image: Callable[..., Path]) -> None:
    make_image("images/train/a.png")  # its mask, say
    report = load(TRIANGLE).report
    assert (report.images_kept, report.doubted) == (3, {Reason.SHARED_LABELS: 2})
    names = [Path(place.image).name for place in report.places[Reason.SHARED_LABELS]]
    assert names == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("0 0.5 0.5 0.2 0.2", Reason.NO_MASK),
        ("0", Reason.BAD_COORDINATES),
        ("0 0.1 0.1", Reason.TOO_FEW_POINTS),
        ("0 0.1 0.1 0.5", Reason.ODD_COUNT),
        ("0 0.1 0.1 0.5 0.1 0.5", Reason.ODD_COUNT),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", Reason.ODD_COUNT),  # a confidence, of one line alone
        ("0 0.1 0.1 0.5 x 0.5 0.5", Reason.BAD_COORDINATES),
        ("0 0.1 0.1 0.5 nan 0.5 0.5", Reason.BAD_COORDINATES),
        ("0 10 10 50 10 50 50", Reason.OTHER_UNIT),  # pixels, of one line alone
        ("0 1.2 1.2 1.5 1.2 1.5 1.5", Reason.OUTSIDE_IMAGE),
    ],
)
def test_left_out(load: Any, line: str, reason: str) -> None:
    report = load(f"{TRIANGLE}\n{line}\n").report
    assert report.left_out == {reason: 1}
    place = report.places[reason][0]
    assert (Path(place.image).name, place.part, place.number) == ("a.jpg", "line", 2)


# Lines of images a and b, of 30 x 20 pixels; what is read and how often. {f} is an outline in
# fractions, {p} one in pixels; both are around (3, 2, 15, 10).
MORE = {
    "a confidence": ("1 {f} 0.913", "1 {f} 0.5\n1 {f} 1", {Reason.CONFIDENCE: 3}),
    "a confidence before": ("1 0.913 {f}", "1 0.5 {f}\n1 1 {f}", {Reason.CONFIDENCE: 3}),
    "an instance's number": ("1 7 {f}", "1 7 {f}\n1 8 {f}", {Reason.INSTANCE_ID: 3}),
    "numbers from 0": ("1 0 {f}\n1 1 {f}\n", "1 0 {f}", {Reason.INSTANCE_ID: 3}),
    "a track's number behind": ("1 {f} 1", "1 {f} 12", {Reason.INSTANCE_ID: 2}),
    "confidence and track": (
        "1 {f} 0.5 1",
        "1 {f} 0.913 3",
        {Reason.CONFIDENCE: 2, Reason.INSTANCE_ID: 2},
    ),
    "a track that is the first in all files": (
        "1 {f} 0.5 1",
        "1 {f} 0.913 1",
        {Reason.CONFIDENCE: 2, Reason.INSTANCE_ID: 2},
    ),
    "a certain confidence": ("1 {f} 1.0", "1 {f} 1.0", {Reason.CONFIDENCE: 2}),
    "a box among them": ("1 {f} 0.9\n1 0.5 0.5 0.2 0.2 0.8", "1 {f} 0.8", {Reason.CONFIDENCE: 2}),
    "pixels": ("1 {p}", "1 {p}\n1 0 0 30 0 30 20 0 20", {Reason.PIXELS: 3}),
    "pixels and a confidence": (
        "1 {p} 0.25",
        "1 {p} 0.25",
        {Reason.CONFIDENCE: 2, Reason.PIXELS: 2},
    ),
    "pixels and a number": ("1 44 {p}", "1 45 {p}", {Reason.INSTANCE_ID: 2, Reason.PIXELS: 2}),
}


@pytest.mark.parametrize("case", MORE)
def test_what_all_lines_have_beside_their_points(load: Any, tmp_path: Path, case: str) -> None:
    first, second, read = MORE[case]
    load("")
    for name, text in (("a", first), ("b", second)):
        text = text.format(f="0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5", p="3 2 15 2 15 10 3 10")
        (tmp_path / f"labels/train/{name}.txt").write_text(text)
    dataset = load_yolo(tmp_path / "data.yaml")
    assert dataset.report.repaired == read
    assert dataset.report.left_out.keys() <= {Reason.NO_MASK} and dataset.report.needs_a_look
    boxes = [d["annotations"][0]["bbox"] for d in dataset.dicts]
    assert boxes == [pytest.approx([3, 2, 15, 10])] * 2


# Lines of a.jpg and of b.jpg that fit more than one reading, or none, and why each is left out.
UNCLEAR = {
    "first or last": (
        "1 0.5 0.3 0.1 0.5 0.2 0.5 0.5",
        "1 0.5 0.3 0.1 0.5 0.2 0.5 0.5",
        "odd_count",
    ),
    "neither": ("1 3.5 0.1 0.1 0.5 0.1 0.5 0.5", "1 4.5 0.1 0.1 0.5 0.1 0.5 0.5", "odd_count"),
    "a confidence in one file": ("1 0.1 0.1 0.5 0.1 0.5 0.5 0.9", None, "odd_count"),
    "percent": ("1 10 10 50 10 50 50", "1 10 10 90 10 90 95", "other_unit"),
    "another size": ("1 10 10 50 10 50 30", "1 10 10 90 10 90 55", "other_unit"),
    "half of the set": ("1 3 2 15 2 15 10", None, "other_unit"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_one_reading_does_not_fit_is_left_out(load: Any, tmp_path: Path, case: str) -> None:
    first, second, reason = UNCLEAR[case]
    load("")
    (tmp_path / "labels/train/a.txt").write_text(first)
    (tmp_path / "labels/train/b.txt").write_text(second or TRIANGLE)
    report = load_yolo(tmp_path / "data.yaml").report
    assert report.left_out == {Reason(reason): 1 if second is None else 2}
    assert not report.repaired


def test_percent_of_large_images_are_no_pixels(tmp_path: Path, make_image: Any) -> None:
    make_image("images/a.jpg", height=300, width=400)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 10 10 99 10 99 95")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]")
    report = load_yolo(tmp_path / "data.yaml").report
    assert report.left_out == {Reason.OTHER_UNIT: 1}


BOX = "0.5 0.5 0.4 0.6"
POSES = {
    # kpt_shape of the data.yaml, numbers behind the box: x, y and visibility of each point
    "two points": ("", "0.4 0.4 2 0.6 0.7 1"),  # an even count: once read as an outline
    "one point": ("", "0.4 0.4 2"),
    "a point that is not seen": ("", "0.4 0.4 2 0 0 0"),
    "without visibility": ("kpt_shape: [2, 2]", "0.4 0.4 0.6 0.7"),
    "stated": ("kpt_shape: [2, 3]", "0.4 0.4 1 0.9 0.9 2"),
    "stated, with a confidence": ("kpt_shape: [2, 3]", "0.4 0.4 1 0.9 0.9 2 0.87"),
    # as a pose model predicts them: how sure it is of each point, and of the box; (0, 0) unseen
    "predicted": ("", "0.4 0.4 0.97 0.6 0.7 0.91 0.45 0.3 0.88 0 0 0.1"),
    "predicted, with a confidence": (
        "",
        "0.4 0.4 0.97 0.6 0.4 0.91 0.5 0.5 0.88 0.43 0.6 0.99 0.57 0.61 0.96 0.87",
    ),
    # an eye, the other one, a nose, corners of a mouth
    "a face": ("", "0.4 0.4 0.6 0.4 0.5 0.5 0.43 0.6 0.57 0.61"),
}


@pytest.mark.parametrize("case", POSES)
def test_pose_labels(load: Any, tmp_path: Path, case: str) -> None:
    config, points = POSES[case]
    load("")
    for name in "ab":
        (tmp_path / f"labels/train/{name}.txt").write_text(f"0 {BOX} {points}\n")
    (tmp_path / "data.yaml").write_text(f"{YAML}{config}\n")
    assert load_yolo(tmp_path / "data.yaml").report.left_out == {Reason.KEY_POINTS: 2}


def test_poses_of_several_lengths(load: Any, tmp_path: Path) -> None:
    first = f"0 {BOX} 0.4 0.4 2 0.6 0.7 1\n0 {BOX} 0.4 0.4 2\n0 {BOX}\n"
    load("")
    (tmp_path / "labels/train/b.txt").write_text(f"0 {BOX} 0.4 0.5 1\n")
    (tmp_path / "labels/train/a.txt").write_text(first)
    left_out = load_yolo(tmp_path / "data.yaml").report.left_out
    assert left_out == {Reason.KEY_POINTS: 3, Reason.NO_MASK: 1}


def test_a_set_of_turned_boxes_is_doubted(load: Any, tmp_path: Path) -> None:
    load("")
    box, quad = "0 0.3 0.2 0.5 0.4 0.4 0.6 0.2 0.4\n", "0 0.3 0.2 0.5 0.4 0.4 0.6 0.2 0.5\n"
    upright = "0 0.3 0.2 0.5 0.2 0.5 0.6 0.3 0.6\n"  # drawn by hand, perhaps
    for text, doubted in ((box * 4, 4), (box * 3 + quad, 0), (upright * 12, 0)):
        (tmp_path / "labels/train/a.txt").write_text("")
        (tmp_path / "labels/train/b.txt").write_text(text)
        report = load_yolo(tmp_path / "data.yaml").report
        lines = text.count("\n")
        assert (report.instances_kept, report.doubted[Reason.TURNED_BOX]) == (lines, doubted)


def test_boxes_with_a_confidence_are_boxes(load: Any, tmp_path: Path) -> None:
    load("")
    for name in "ab":
        (tmp_path / f"labels/train/{name}.txt").write_text(f"0 {BOX} 0.87\n")
    assert load_yolo(tmp_path / "data.yaml").report.left_out == {Reason.NO_MASK: 2}


@pytest.mark.parametrize(
    "line",
    [
        "0.5 0.2 0.6 0.3 0.5 1 0.4 0.5 1 0.2",  # every third number is 1
        "0.4 0.4 0.45 0.38 0.5 0.4 0.52 0.5 0.4 0.48",  # around a point, in a box of the next one
        "0.4 1 0.45 0.5 0.55 0.5 0.6 1",  # a road, which ends at the lower edge
    ],
)
def test_outlines_that_might_be_something_else(load: Any, tmp_path: Path, line: str) -> None:
    load("")
    for name in "ab":
        (tmp_path / f"labels/train/{name}.txt").write_text(f"0 {line}\n")
    report = load_yolo(tmp_path / "data.yaml").report
    assert (report.instances_kept, report.repaired) == (2, {})


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
        ("nc: 2\nnames: [cat, dog]", {}),  # as supervision writes it: images/ beside it
        ("path: /no/such\ntrain: images/train\nnames: [cat, dog]", {"image_root": "."}),
        ("train: list.txt\nnames: [cat, dog]", {}),
        ("train: images\\train\nnames: [cat, dog]", {}),
        ("train: ..\\images\\train\nnames: [cat, dog]", {}),
        ("train: C:\\set\\images\\train\nnames: [cat, dog]", {}),  # of another machine
        ("train: /content/set/images/train\nnames: [cat, dog]", {}),
        ("path: /content\ntrain: /content/set/images/train\nnames: [cat, dog]", {"image_root": 1}),
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
    found = {Reason.FOUND_ELSEWHERE: 2} if "set" in config else {}
    assert dataset.report.repaired == found


def test_images_of_another_part_are_not_taken(load: Any, make_image: Any) -> None:
    make_image("train/images/c.jpg")
    config = "path: train\nval: /content/set/val/images\nnames: [cat, dog]"
    with pytest.raises(DatasetError, match="/content/set/val/images does not exist"):
        load(TRIANGLE, config, split="val")


@pytest.mark.parametrize("labels", ["labels", "Labels"])
def test_folders_in_large_letters(load: Any, tmp_path: Path, labels: str) -> None:
    load(TRIANGLE)
    (tmp_path / "images").rename(tmp_path / "Images")
    (tmp_path / "labels").rename(tmp_path / labels)
    (tmp_path / "data.yaml").write_text("train: Images/train\nnames: [cat, dog]")
    assert load_yolo(tmp_path / "data.yaml").report.instances_kept == 2


@pytest.mark.parametrize("is_text", [False, True])  # as git writes links on Windows
def test_folders_behind_links(load: Any, tmp_path: Path, make_image: Any, is_text: bool) -> None:
    load(TRIANGLE)
    make_image("store/images/c.jpg")
    (tmp_path / "store/labels").mkdir()
    (tmp_path / "store/labels/c.txt").write_text(TRIANGLE)
    for kind in ("images", "labels"):
        (tmp_path / f"store/{kind}/back").symlink_to(f"../../{kind}")  # a circle
        path, target = tmp_path / f"{kind}/train/more", f"../../store/{kind}"
        path.write_text(target) if is_text else path.symlink_to(target)
    dataset = load(TRIANGLE)
    assert [Path(d["file_name"]).name for d in dataset.dicts] == ["a.jpg", "b.jpg", "c.jpg"]


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
        ("9 9 40 9 40 40 9 40 small-vehicle 0", YAML, {}, r"line 1: '9 9 .*looks like DOTA's"),
        ("0.5 0 0 1 0 1 1", YAML, {}, r"a\.txt, line 1: '0.5"),
        ("inf 0 0 1 0 1 1", YAML, {}, r"a\.txt, line 1: 'inf"),
        (TRIANGLE, YAML, {"classes": ["dogs"]}, r"'dog' \(2 instances; did you mean 'dogs'\?\)"),
        (
            TRIANGLE,
            f"names: [a, b]\npath: {'x' * 5000}",
            {},
            "x does not exist; expected the folder",
        ),
        (TRIANGLE, YAML, {"split": "test"}, "'test' is None; .*keys of the file: path, train"),
        (TRIANGLE, YAML, {"split": "val"}, r"images/val does not exist; .*Correct the data.yaml"),
        (TRIANGLE, "train: images/train", {}, "names is None; expected a list or dict"),
        (TRIANGLE, "names: []\ntrain: images", {}, r"names is \[\]"),
        (TRIANGLE, "names: {a: cat}\ntrain: images", {}, "has the key 'a'"),
        (TRIANGLE, "names: {no: cat}\ntrain: images", {}, "has the key False"),
        (TRIANGLE, YAML, {"unlabelled": "no"}, "'no'; expected leave_out or background"),
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


def test_the_image_of_another_camera_is_not_offered(tmp_path: Path, make_image: Any) -> None:
    make_image("images/cam0/1.jpg")
    (tmp_path / "labels/cam0").mkdir(parents=True)
    (tmp_path / "labels/cam0/1.txt").write_text(TRIANGLE)
    (tmp_path / "list.txt").write_text("/h/x/images/cam0/1.jpg\n/h/x/images/cam1/1.jpg\n")
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]")
    note = load_yolo(tmp_path / "data.yaml").report.places[Reason.IMAGE_MISSING][0].note
    assert "it is not in" in note and "image_root to" not in note
