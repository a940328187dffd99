"""One file for each name, by rule, or a word on why there is none; never another image."""

from __future__ import annotations

import cProfile
import os
import pstats
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import pytest

from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.formats.base import RawImage, Reason, UnusableDataset
from transfer_maskrcnn.data.formats.files import list_images
from transfer_maskrcnn.data.formats.names import ImageFolder, parts_of

LOOSE, SPELT, MISSING = Reason.FOUND_ELSEWHERE, Reason.NAME_SPELT, Reason.IMAGE_MISSING
NFC, NFD = normalize("NFC", "é.jpg"), normalize("NFD", "é.jpg")
HASH = "1a2b3c4d5e6f7081920a3b4c5d6e7f80"


class Found(NamedTuple):
    """A file below the folder of all, or none, with what was said of it."""

    file: str
    reason: Reason | None
    note: str = ""


Search = Callable[..., list[Found]]


@pytest.fixture
def search(tmp_path: Path, make_image: Callable[..., Path]) -> Search:
    """search(files, names): each name looked up in "images", with annotations in "ann"."""

    def search(
        files: Sequence[str], names: Sequence[Any], root: str | None = "images", **options: Any
    ) -> list[Found]:
        for folder in ("images", "ann", root or ""):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            make_image(file, 4, 5)
        images = [RawImage(name, 1) for name in names]
        folder = ImageFolder(None if root is None else tmp_path / root, tmp_path / "ann")
        folder.locate(images, **options)
        found = []
        for image in images:
            path = Path(os.path.normpath(image.file_name))
            assert bool(image.problem) or path.is_file()
            told = image.repairs or [(image.problem, image.note)]
            file = "" if image.problem else path.relative_to(tmp_path).as_posix()
            found.append(Found(file, *told[-1]))
        return found

    return search


@pytest.mark.parametrize(
    "name, file, reason",
    [
        ("a.jpg", "images/a.jpg", None),
        ("sub/a.jpg", "images/sub/a.jpg", None),
        ("./a.jpg", "images/./a.jpg", None),
        ("sub//a.jpg", "images/sub/a.jpg", None),
        # another notation
        ("sub\\a.jpg", "images/sub/a.jpg", SPELT),
        (" a.jpg ", "images/a.jpg", SPELT),
        (NFC, f"images/{NFD}", SPELT),
        (NFD, f"images/{NFC}", SPELT),
        # beside the annotations
        ("a.jpg", "ann/a.jpg", LOOSE),
        ("../photos/a.jpg", "photos/a.jpg", None),  # from image_root on, too
        ("..\\images\\sub\\a.jpg", "images/sub/a.jpg", SPELT),
        ("../images/sub/a.jpg", "images/sub/a.jpg", None),
        # folders before it, of this machine or another, or too few
        ("images/a.jpg", "images/a.jpg", LOOSE),
        ("images\\a.jpg", "images/a.jpg", LOOSE),
        ("images/3/a.jpg", "images/a.jpg", LOOSE),
        ("/home/bob/set/a.jpg", "images/a.jpg", LOOSE),
        ("C:\\Users\\bob\\a.jpg", "images/a.jpg", LOOSE),
        ("..\\..\\media\\upload\\a.jpg", "images/a.jpg", LOOSE),
        ("/home/bob/set/cam0/a.jpg", "images/cam0/a.jpg", LOOSE),
        ("a.jpg", "images/sub/deeper/a.jpg", LOOSE),
        # addresses
        ("https://example.org/store/a.jpg?sig=ab%2Fc&e=1", "images/a.jpg", LOOSE),
        ("s3://bucket/store/a.jpg", "images/a.jpg", LOOSE),
        ("file:///home/bob/a.jpg", "images/a.jpg", LOOSE),
        ("file:///C:/bob/a%20b.jpg", "images/a b.jpg", LOOSE),
        ("/data/local-files/?d=folder%5Ca.jpg", "images/a.jpg", LOOSE),
        ("/data/local-files/?d=sub/a.jpg", "images/sub/a.jpg", SPELT),
        ("https://example.org/get.php?id=1&file=a.jpg", "images/a.jpg", SPELT),
        ("https://example.org/a.jpg?name=b.jpg", "images/a.jpg", SPELT),
        ("a%20b.jpg", "images/a b.jpg", LOOSE),
        ("a%20b.jpg", "images/a%20b.jpg", None),
        # uploads
        ("/data/upload/3/1a2b3c4d-a.jpg", "images/a.jpg", LOOSE),
        ("1a2b3c4d-a.jpg", "images/1a2b3c4d-a.jpg", None),
        ("a.jpg", "images/1a2b3c4d-a.jpg", LOOSE),
        (f"a_png.rf.{HASH}.jpg", "images/a.png", LOOSE),
        ("a.jpg", f"images/a_jpg.rf.{HASH}.jpg", LOOSE),
        # letters and suffixes
        ("a.JPG", "images/a.jpg", LOOSE),
        ("a.jpeg", "images/a.JPG", LOOSE),
        ("A.jpg", "images/a.jpg", LOOSE),
        ("a.jpg", "images/a.png", LOOSE),
        ("a", "images/a.png", LOOSE),
        (7, "images/7.png", LOOSE),
    ],
)
def test_one_file(search: Search, name: Any, file: str, reason: Reason | None) -> None:
    others = ["images/b.jpg", "images/c.png", "images/._a.jpg", "images/.x/a.jpg"]
    (found,) = search([file, *others], [name])
    assert (found.file, found.reason) == (os.path.normpath(file), reason)


@pytest.mark.parametrize(
    "files, names, expected",
    [
        # folders that tell images apart
        (["images/im0.jpg"], ["cam0/im0.jpg", "cam1/im0.jpg"], ["", ""]),
        (["images/cam0/im0.jpg"], ["cam1/im0.jpg"], [""]),
        (["images/cam0/im0.jpg"], ["x/cam0/im0.jpg", "x/cam1/im0.jpg"], ["cam0/im0.jpg", ""]),
        (["images/cam0/a.jpg", "images/cam1/a.jpg"], ["x/cam1/a.jpg"], ["cam1/a.jpg"]),
        (["images/train/a.jpg"], ["test/a.jpg"], [""]),
        # folders that are dropped
        (["images/a.jpg", "images/b.jpg"], ["up/3/a.jpg", "up/4/b.jpg"], ["a.jpg", "b.jpg"]),
        # one file, two names; a file that another name states
        (["images/a.jpg"], ["a.jpg", "old/a.jpg"], ["a.jpg", ""]),
        (["images/a.jpg"], ["a.JPG", "a.jpeg"], ["", ""]),
        (["images/a.jpg"], ["x/a.jpg", "x/a.jpg"], ["a.jpg", "a.jpg"]),  # the same name twice
        (["images/a.png"], ["a.jpg", "a.bmp"], ["", ""]),
        # two files, one name
        (["images/x/a.jpg", "images/y/a.jpg"], ["a.jpg"], [""]),
        (["images/a.png", "images/a.bmp"], ["a.jpg"], [""]),
        (["images/x/a.jpg", "images/y/a.jpg", "images/x/b.jpg"], ["a.jpg", "b.jpg"], ["", ""]),
        # thumbnails and masks of the same names
        (["images/a.jpg", "images/s/a.jpg", "images/s/b.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", ""]),
        (["images/a.jpg", "images/a.png", "images/b.png"], ["a.jpg", "b.jpg"], ["a.jpg", ""]),
        (["images/masks/a.png"], ["a.jpg"], [""]),
        # photographs that are lost, while others are where they are stated
        (["images/a.jpg", "images/masks/b.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", ""]),
        (
            ["images/1.jpg", "images/3.jpg", "images/val/2.jpg", "images/val/4.jpg"],
            ["1.jpg", "2.JPG", "3.jpg"],
            ["1.jpg", "", "3.jpg"],
        ),
        (["images/p/1.jpg", "images/q/2.jpg"], ["1.jpg", "2.jpg"], ["p/1.jpg", "q/2.jpg"]),
        # dates are no marks of an upload
        (["images/1.jpg"], ["20240101-1.jpg"], [""]),
        (["images/20240101-1.jpg"], ["1.jpg"], [""]),
        (
            ["images/1.jpg", "images/2.jpg"],
            ["20240101-1.jpg", "1a2b3c4d-2.jpg"],
            ["1.jpg", "2.jpg"],
        ),
        (["images/20240102-1.jpg"], ["20240101-1.jpg"], [""]),
        (["images/im10.jpg"], ["im1.jpg"], [""]),
    ],
)
def test_no_other_image(
    search: Search, files: Sequence[str], names: Sequence[str], expected: Sequence[str]
) -> None:
    found = search(files, names)
    assert [one.file.removeprefix("images/") for one in found] == expected
    assert all((one.reason is MISSING) == (not one.file) for one in found)


@pytest.mark.parametrize("there", [["imgs/cam0"], ["imgs/cam0", "imgs/cam1"]])
def test_the_folder_of_another_camera(search: Search, there: Sequence[str]) -> None:
    found = search([f"{folder}/im0.jpg" for folder in there], ["cam1/im0.jpg", "b.jpg"], there[0])
    assert found[0].reason is MISSING


@pytest.mark.parametrize(
    "root, name, is_found",
    [
        # folders above, compared as far as they agree
        ("valid/images", "/content/set/train/images/1.jpg", False),
        ("cam1/images", "/d/cam0/images/1.jpg", False),
        ("MOT-02/img1", "MOT-04/img1/1.jpg", False),
        ("session_b/rgb", "session_a/rgb/1.jpg", False),
        ("new/images", "/old/set/images/1.jpg", True),
        ("disk2/set/images", "/disk1/set/images/1.jpg", True),
        ("val/cam0/images", "/old/train/cam0/images/1.jpg", False),
        ("old/images", "/old/images/1.jpg", True),
        # parts of a set, as words of a name
        ("val2017", "/x/train2017/1.jpg", False),
        ("val_images", "train_images/1.jpg", False),
        ("dev", "train/1.jpg", False),
        ("val", "train2017/1.jpg", False),
        ("train", "/x/train2017/1.jpg", True),
        ("b", "a/1.jpg", False),
        ("b", "imgs/1.jpg", True),
        # a folder that there is
        ("front/rgb", "back/rgb/1.jpg", False),
    ],
)
def test_folders_above(
    search: Search, tmp_path: Path, root: str, name: str, is_found: bool
) -> None:
    (tmp_path / "back/rgb").mkdir(parents=True)
    (found,) = search([f"{root}/1.jpg"], [name], root)
    assert (found.reason is LOOSE) == is_found


@pytest.mark.parametrize(
    "files, name, words",
    [
        (["images/x/a.jpg", "images/y/a.jpg"], "a.jpg", ("x/a.jpg and y/a.jpg", "equally")),
        (["images/photos/a.jpg"], "imgs/a.jpg", ("photos/a.jpg", "set image_root to", "/photos")),
        (["images/im_00.jpg"], "im00.jpg", ("did you mean 'im_00.jpg'",)),
        (["images/0001.jpg", "images/0011.jpg"], "1.jpg", ("did you mean '0001.jpg'",)),
        ([], "a.jpg", ("image_root holds no files",)),
        (["images/b.jpg"], "https://example.org/a.jpg", ("an address; fetch",)),
        (["images/b.jpg"], None, ("no file name is stated",)),
    ],
)
def test_a_missing_file_is_told_with_the_nearest(
    search: Search, files: Sequence[str], name: Any, words: Sequence[str]
) -> None:
    (found,) = search(files, [name])
    assert found.reason is MISSING
    assert all(word in found.note for word in words)


@pytest.mark.parametrize(
    "name, stem, file",
    [
        ("", "a", "images/a.png"),
        (None, "a", "images/a.png"),
        ("gone.jpg", "a", "images/a.png"),
        ("../ann/a.json", "a", "images/a.png"),  # exists, but is no image
        ("b.png", "a", "images/b.png"),
    ],
)
def test_the_name_of_the_annotation_file(
    search: Search, tmp_path: Path, name: Any, stem: str, file: str
) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann/a.json").write_text("{}")
    (found,) = search(["images/a.png", "images/b.png"], [name], stems=[stem])
    assert found.file == file


def test_a_suffix_is_believed_of_images_only(search: Search, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_text("<html>404</html>")
    (found,) = search([], ["a.jpg"])
    assert found.reason is MISSING and "no image" in found.note


def test_links_are_followed_once(search: Search, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "images")
    (found,) = search(["elsewhere/a.jpg"], ["x/linked/a.jpg"])
    assert found.file == "images/linked/a.jpg"
    assert len(list_images(tmp_path / "images", recursive=True)) == 1


@pytest.mark.parametrize(
    "name, parts",
    [
        ("C:\\a\\b.jpg", ["a", "b.jpg"]),
        ("../x/../a//./b.jpg", ["a", "b.jpg"]),
        ("http://h:80/a/b%20c.jpg?x=1#y", ["a", "b c.jpg"]),
        ("what?.jpg", ["what"]),
        ("..", []),
        ("", []),
    ],
)
def test_parts(name: str, parts: list[str]) -> None:
    assert parts_of(name) == parts


@pytest.mark.parametrize("kind", ["a sound set", "all in other folders", "all of one name"])
def test_time_is_linear(tmp_path: Path, kind: str) -> None:
    def calls(count: int) -> int:
        root = tmp_path / f"{kind} {count}"
        root.mkdir()
        names = [f"{k}.jpg" for k in range(count)]
        if kind == "all of one name":
            names = [f"{k}/rgb/0.jpg" for k in range(count)]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        prefix = "" if kind == "a sound set" else "old/place/"
        images = [RawImage(prefix + name, 1) for name in names]
        profile = cProfile.Profile()
        profile.runcall(ImageFolder(root, root).locate, images)
        assert not any(image.problem for image in images)
        return int(pstats.Stats(profile).total_calls)

    assert calls(200) < 6 * calls(40)


@pytest.mark.parametrize("format", ["coco", "via", "labelme"])
def test_image_root_is_where_the_annotations_are(
    format: str, write_json: Callable[..., Path], make_image: Callable[..., Path]
) -> None:
    make_image("set/photos/a.jpg")
    square = [2, 2, 8, 2, 8, 8, 2, 8]
    coco = {
        "images": [{"id": 1, "file_name": "photos/a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    points = [[2, 2], [8, 2], [8, 8]]
    via = {"name": "polygon", "all_points_x": [2, 8, 8], "all_points_y": [2, 2, 8]}
    content = {
        "coco": coco,
        "labelme": {"imagePath": "photos/a.jpg", "shapes": [{"label": "cat", "points": points}]},
        "via": {
            "a": {
                "filename": "photos/a.jpg",
                "regions": [{"shape_attributes": via, "region_attributes": {"class": "cat"}}],
            }
        },
    }[format]
    path = write_json(content, "set/a.json")
    loaded = FORMATS[format](path.parent if format == "labelme" else path)
    assert [d["file_name"] for d in loaded.dicts] == [str(path.parent / "photos/a.jpg")]
    assert not {LOOSE, SPELT} & loaded.report.repaired.keys()


def test_the_cause_is_said_where_all_are_missing(
    write_json: Callable[..., Path], make_image: Callable[..., Path], tmp_path: Path
) -> None:
    make_image("images/photos/a.jpg")
    records = [{"id": k, "file_name": f"imgs/{name}.jpg"} for k, name in enumerate("ab")]
    path = write_json({"images": records, "annotations": [], "categories": []})
    with pytest.raises(UnusableDataset, match=r"set image_root to .*photos") as error:
        FORMATS["coco"](path, tmp_path / "images")
    assert error.value.report.images_left_out == {MISSING: 2}
