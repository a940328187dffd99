"""Files in, files out; a stub for the model."""

from __future__ import annotations

import errno
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO

from transfer_maskrcnn.data.formats.labelme_via import load_labelme_json
from transfer_maskrcnn.errors import ConfigError, DatasetError
from transfer_maskrcnn.inference import load, outputs
from transfer_maskrcnn.inference.inputs import Video
from transfer_maskrcnn.inference.load import Found, predict
from transfer_maskrcnn.inference.outputs import (
    JOURNAL_FILE,
    JSON,
    LABELME,
    LABELME_MASKS,
    MASKS,
    OVERLAY,
    Journal,
    check_output,
    video_file,
)
from transfer_maskrcnn.inference.results import Detection, Picture, Pixels, Result

ALL = [OVERLAY, JSON, MASKS, LABELME]


class BrightIsCat:
    """Finds what is brighter than 128, as a cat; nothing in a dark image."""

    names = ["dog", "black cat"]

    def __init__(self, masks: bool = True, stop_at: int = 10**9):
        self.masks, self.left = masks, stop_at
        self.batches: list[int] = []

    def find(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        self.batches.append(len(images))
        self.left -= len(images)
        if self.left < 0:
            raise KeyboardInterrupt
        return [self._find(image) for image in images]

    def _find(self, image: Pixels) -> list[Detection]:
        mask = np.asfortranarray((image.min(axis=2) > 128).astype(np.uint8))
        if not mask.any():
            return []
        rle = mask_util.encode(mask)
        box = tuple(float(v) for v in mask_util.toBbox(rle))
        text = {**rle, "counts": rle["counts"].decode()}
        return [Detection(1, 0.75, box, text if self.masks else None)]  # type: ignore[arg-type]


def picture(left: int, height: int = 40, width: int = 60) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[10:30, left : left + 20] = 255
    return pixels


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two images of one name with a cat each, and an empty one."""
    paths = [tmp_path / "in" / name for name in ("a/1.png", "b/1.png", "b/dark.png")]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(5 + i) if i < 2 else picture(70))
    return paths


def run(source: Sequence[Path] | Video, out: Path, model: Any = None, **options: Any) -> Found:
    options = {"kinds": ALL, "command": "this", "report": lambda line: None, **options}
    return predict(model or BrightIsCat(), source, out, **options)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_every_file_has_its_own_name(photos: list[Path], out: Path) -> None:
    found = run(photos, out)
    assert (found.pictures, found.failed, dict(found.instances)) == (3, 0, {"black cat": 2})
    names = ["a-1", "b-1", "dark"]
    expected = {"predictions.json", "images.json"}
    expected |= {f"overlays/{name}.jpg" for name in names}
    expected |= {f"labelme/{name}.json" for name in names}
    expected |= {f"masks/{name}/001_black_cat_0.75.png" for name in names[:2]}
    assert files(out) == expected


@pytest.mark.parametrize("kind", ALL)
def test_what_is_not_wanted_is_not_written(kind: str, photos: list[Path], out: Path) -> None:
    run(photos[:1], out, kinds=[kind])
    folders = {OVERLAY: {"overlays"}, MASKS: {"masks"}, LABELME: {"labelme"}}
    expected = folders.get(kind, {"predictions.json", "images.json"})
    assert {path.name for path in out.iterdir()} == expected


def test_pycocotools_reads_the_results(photos: list[Path], out: Path) -> None:
    run(photos, out)
    coco = COCO(str(out / "images.json"))
    results = coco.loadRes(str(out / "predictions.json"))
    assert [image["name"] for image in coco.imgs.values()] == ["a-1", "b-1", "dark"]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["dog", "black cat"]
    assert [(a["image_id"], a["category_id"]) for a in results.anns.values()] == [(1, 2), (2, 2)]
    assert results.anns[2]["bbox"] == [6, 10, 20, 20]
    assert (results.annToMask(results.anns[2]) == (picture(6)[:, :, 0] > 0)).all()


@pytest.mark.parametrize("name", ["labelme", "overlays", "masks", "predictions.json"])
def test_what_was_predicted_before_is_not_overwritten(name: str, out: Path) -> None:
    check_output(out, "this")
    (out / name).touch()
    with pytest.raises(ConfigError, match=f"holds {name} of an earlier prediction"):
        check_output(out, "this")


def test_a_mask_is_where_the_object_is(photos: list[Path], out: Path) -> None:
    folder = out / "masks" / "1"
    run(photos[:1], out)
    assert [path.name for path in folder.iterdir()] == ["001_black_cat_0.75.png"]
    mask = cv2.imread(str(folder / "001_black_cat_0.75.png"), cv2.IMREAD_UNCHANGED)
    assert (mask == picture(5)[:, :, 0]).all()


@pytest.mark.parametrize("masks", [True, False])
def test_labelme_finds_image_and_objects(masks: bool, photos: list[Path], out: Path) -> None:
    run(photos[:2], out, BrightIsCat(masks))
    for name, photo in (("a-1", photos[0]), ("b-1", photos[1])):
        path = out / "labelme" / f"{name}.json"
        content = json.loads(path.read_text())
        assert (path.parent / content["imagePath"]).resolve() == photo.resolve()
        assert not os.path.isabs(content["imagePath"])
        assert [shape["label"] for shape in content["shapes"]] == ["black cat"]


@pytest.mark.parametrize(("kind", "shape"), [(LABELME, "polygon"), (LABELME_MASKS, "mask")])
def test_labelme_is_a_dataset_to_train_on(
    kind: str, shape: str, photos: list[Path], out: Path
) -> None:
    run(photos[:1], out, kinds=[kind])
    assert files(out) == {"labelme/1.json"}
    assert json.loads((out / "labelme/1.json").read_text())["shapes"][0]["shape_type"] == shape
    loaded = load_labelme_json(out / "labelme", photos[0].parent)
    (annotation,) = loaded.dicts[0]["annotations"]
    assert annotation["bbox"] == pytest.approx([5, 10, 25, 30], abs=1)


def test_an_image_that_breaks_does_not_stop_the_others(photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(photos[1].read_bytes()[:60])
    lines: list[str] = []
    found = run([*photos, photos[0].with_name("gone.png")], out, report=lines.append)
    assert (found.pictures, found.failed) == (2, 2)
    assert lines == [
        f"{photos[1]}: damaged or cut short",
        f"{photos[0].with_name('gone.png')}: missing on disk",
    ]
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(i["id"], i["name"]) for i in images] == [(1, "a-1"), (2, "dark")]


def test_batches_hold_so_many_images_and_no_more(photos: list[Path], out: Path) -> None:
    model = BrightIsCat()
    run(photos, out, model, batch=2)
    assert model.batches == [2, 1]


def test_memory_holds_one_batch(
    photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def reading(path: Path) -> Pixels:
        nonlocal most
        pixels = picture(5)
        alive.append(weakref.ref(pixels))
        most = max(most, sum(ref() is not None for ref in alive))
        return pixels

    monkeypatch.setattr(load, "read_bgr", reading)
    run(photos * 10, out, batch=2, kinds=[JSON])
    assert most <= 5, "the batch before, and the one that is being read"


def test_ctrl_c_leaves_whole_files_of_what_is_done(photos: list[Path], out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, BrightIsCat(stop_at=1))
    assert files(out) == {
        *("overlays/a-1.jpg", "labelme/a-1.json", "masks/a-1/001_black_cat_0.75.png"),
        *("predictions.json", "images.json", JOURNAL_FILE),
    }
    coco = COCO(str(out / "images.json"))
    assert len(coco.loadRes(str(out / "predictions.json")).anns) == len(coco.imgs) == 1


def result(*found: Detection) -> Result:
    return Result(Picture(picture(5), Path("a.png"), "a"), found, BrightIsCat.names)


def test_ctrl_c_in_the_middle_of_an_image(out: Path) -> None:
    found = Detection(0, 0.5, (1.0, 2.0, 3.0, 4.0), None)

    def until_stopped() -> Iterator[Detection]:
        yield found
        raise KeyboardInterrupt

    stopped = result()
    stopped.detections = cast("Any", until_stopped())
    journal = Journal(out, "this")
    journal.add(result(found))
    with pytest.raises(KeyboardInterrupt):
        journal.add(stopped)
    journal.close(["dog"], is_done=False)
    assert [r["image_id"] for r in json.loads((out / "predictions.json").read_text())] == [1]
    assert len(json.loads((out / "images.json").read_text())["images"]) == 1


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


# how a journal of two images may end, when the power fails within the second
TORN = [b"", b"{", b'{"image": {"name": "b-1"', b"\0\0\0"]


@pytest.mark.parametrize("torn", TORN)
def test_the_same_command_goes_on(
    torn: bytes, photos: list[Path], out: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, BrightIsCat(stop_at=1))
    with (out / JOURNAL_FILE).open("ab") as file:
        file.write(torn)
    (out / "labelme" / "a-1.json").write_text("corrected by hand")
    check_output(out, "this")
    model = BrightIsCat()
    found = run(photos, out, model)
    assert (found.pictures, model.batches) == (3, [1, 1])
    assert found.summary("image") == "3 images, 2 instances (black cat 2)"
    assert (out / "labelme" / "a-1.json").read_text() == "corrected by hand"
    whole = tmp_path / "whole"
    whole.mkdir()
    run(photos, whole)
    assert content(out) == {**content(whole), "labelme/a-1.json": b"corrected by hand"}


def test_another_command_does_not_go_on(photos: list[Path], out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, BrightIsCat(stop_at=1))
    before = content(out)
    with pytest.raises(ConfigError, match="unfinished prediction"):
        check_output(out, "that")
    assert content(out) == before


def test_two_at_once_are_refused(out: Path) -> None:
    Journal(out, "this").add(result())
    journal = Journal(out, "this")
    before = content(out)
    with pytest.raises(ConfigError, match="another prediction writes"):
        Journal(out, "this")
    assert content(out) == before
    assert list(journal.done) == ["a"]


def test_on_a_full_disk_the_journal_stays(
    photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, result: Result) -> None:
        if result.name == "dark":
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(outputs, "write_overlay", full)
        run(photos, out)
    assert "predictions.json" not in files(out)
    model = BrightIsCat()
    assert run(photos, out, model).pictures == 3
    assert model.batches == [1] and JOURNAL_FILE not in files(out)


def test_a_video_begins_again(clip: Path, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Video(clip), out, BrightIsCat(stop_at=3), kinds=[OVERLAY, JSON])
    assert run(Video(clip), out, kinds=[OVERLAY, JSON]).pictures == 5
    assert Video(out / "overlays" / "clip.mp4").frames == 5


def test_ctrl_c_before_the_first_image(photos: list[Path], out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, BrightIsCat(stop_at=0))
    assert json.loads((out / "predictions.json").read_text()) == []
    assert json.loads((out / "images.json").read_text())["images"] == []


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames; a square moves from left to right."""
    path = tmp_path / "clip.mp4"
    with video_file(path, 10.0, (96, 128)) as add_frame:
        for left in range(5, 55, 10):
            add_frame(picture(left, 96, 128))
    return path


def test_a_video_frame_by_frame(clip: Path, out: Path) -> None:
    video = Video(clip)
    assert (video.frames, video.rate, video.size) == (5, 10.0, (96, 128))
    found = run(video, out, kinds=[OVERLAY, JSON, MASKS], batch=2)
    assert (found.pictures, found.instances.total()) == (5, 5)
    drawn = Video(out / "overlays" / "clip.mp4")
    assert (drawn.frames, drawn.rate, drawn.size) == (5, 10.0, (96, 128))
    colours = [np.ptp(frame[20, 6:14].astype(int), axis=1).max() for frame in drawn]
    assert colours[0] > 30 > colours[4], "the first frame is tinted there, the last is not"
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(i["id"], i["frame"]) for i in images] == [(n + 1, n) for n in range(5)]
    results = json.loads((out / "predictions.json").read_text())
    assert [r["bbox"][0] for r in results] == pytest.approx([5, 15, 25, 35, 45], abs=2)
    assert len(list((out / "masks").iterdir())) == 5


def test_a_video_that_is_stopped_plays(clip: Path, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Video(clip), out, BrightIsCat(stop_at=3), kinds=[OVERLAY, JSON])
    assert Video(out / "overlays" / "clip.mp4").frames == 3
    assert files(out) == {"overlays/clip.mp4", "predictions.json", "images.json", JOURNAL_FILE}
    assert len(json.loads((out / "images.json").read_text())["images"]) == 3


def test_a_video_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"no\.mp4: OpenCV reads no frame"):
        Video(tmp_path / "no.mp4")


def test_an_output_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output .*file: cannot write there \(File exists\)"):
        check_output(tmp_path / "file", "")
    with pytest.raises(ConfigError, match="cannot write there"):
        check_output(tmp_path / "file" / "below", "")
    check_output(tmp_path / "new" / "below", "")
    assert list((tmp_path / "new" / "below").iterdir()) == []
