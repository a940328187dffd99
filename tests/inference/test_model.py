"""Model: thresholds, channels, sizes, batches; what it takes for an image; threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

from transfer_maskrcnn.errors import ConfigError, DatasetError, TransferError
from transfer_maskrcnn.inference.inputs import pictures_of
from transfer_maskrcnn.inference.model import Model, class_thresholds
from transfer_maskrcnn.inference.outputs import video_file
from transfer_maskrcnn.inference.results import Pixels, Result, Results

CLASSES = ["cat", "dog", "owl"]
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.PIXEL_STD", [58.0, 58.0, 58.0]),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_HEADS.NUM_CLASSES", len(CLASSES), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 10),
]


def tiny(*options: Any) -> nn.Module:
    """A detector with next to no channels, whose predictions are random but never alike."""
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.merge_from_list([*TINY, *options])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build_model(cfg)
        for name, tensor in model.state_dict().items():
            if "mask_head.predictor" in name or name.endswith("cls_score.weight"):
                tensor.copy_(torch.randn(tensor.shape) * 3)
    return model


def finder(model: nn.Module, **options: Any) -> Model:
    return Model(model, CLASSES, shortest_side=64, longest_side=128, **options)


def images(*sizes: tuple[int, int]) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_detections_are_in_the_image_best_first() -> None:
    (found,) = finder(tiny()).find(images((100, 150)))
    assert len(found) > 5
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for detection in found:
        x, y, width, height = detection.bbox
        assert 0 <= x <= x + width <= 150 + 1e-3
        assert 0 <= y <= y + height <= 100 + 1e-3
        assert detection.segmentation is not None
        assert detection.segmentation["size"] == [100, 150]
        assert isinstance(detection.segmentation["counts"], str)


def test_a_model_without_masks_has_boxes() -> None:
    (found,) = finder(tiny("MODEL.MASK_ON", False)).find(images((64, 64)))
    assert found
    assert all(detection.segmentation is None for detection in found)


def test_batches_pad_no_image_further_than_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    shapes: list[tuple[int, ...]] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    # 64x96, 96x64, 64x96 and 64x90 for the model: the last is padded to 64x96 alone, too
    mixed = images((100, 150), (150, 100), (200, 300), (128, 180))
    together = finder(model).find(mixed)
    assert sorted(shapes) == [(1, 3, 96, 64), (3, 3, 64, 96)]
    hook.remove()
    for image, found in zip(mixed, together, strict=True):
        (alone,) = finder(model).find([image])
        assert [d.class_index for d in found] == [d.class_index for d in alone]
        assert np.allclose([d.bbox for d in found], [d.bbox for d in alone], atol=1e-2)
        assert np.allclose([d.score for d in found], [d.score for d in alone], atol=1e-4)


def test_nothing_in_nothing_out() -> None:
    assert finder(tiny()).find([]) == []


def test_each_class_has_its_threshold() -> None:
    picture = images((96, 96))
    (everything,) = finder(tiny()).find(picture)
    scores = {d.class_index: d.score for d in reversed(everything)}  # the best of each class
    best = max(scores, key=lambda index: scores[index])
    limits = [1.0] * 3
    limits[best] = scores[best] - 1e-4
    (found,) = finder(tiny(), thresholds=limits).find(picture)
    assert {d.class_index for d in found} == {best}
    assert all(d.score > limits[best] for d in found)


def test_the_model_gets_the_channels_it_knows() -> None:
    seen: list[torch.Tensor] = []
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:] = (10, 20, 30)
    for channels in ("BGR", "RGB"):
        item = finder(tiny(), channels=channels)._model_input(picture)
        seen.append(item["image"][:, 0, 0])
    assert seen[0].tolist() == [10, 20, 30]
    assert seen[1].tolist() == [30, 20, 10]
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT is 'YUV-BT\.601'; expected BGR or RGB"):
        finder(tiny(), channels="YUV-BT.601")


@pytest.mark.parametrize("batch", [0, -1, 2.5, "4"])
def test_batches_that_make_no_sense(batch: Any) -> None:
    with pytest.raises(ConfigError, match=r"batch is .*; expected a whole number from 1 on"):
        finder(tiny(), batch=batch)


def test_a_line_is_an_image() -> None:
    assert len(finder(tiny()).find(images((1, 3000)))) == 1


def test_the_model_is_in_eval_mode() -> None:
    model = tiny().train()
    finder(model)
    assert not model.training


def test_thresholds_by_name() -> None:
    assert class_thresholds(CLASSES, 0.5, {"dog": 0.7, "cat": 0.0}) == [0.0, 0.7, 0.5]


WRONG: list[tuple[float, dict[str, float], str]] = [
    (0.5, {"dgo": 0.7}, r"for 'dgo', .* no such class; it has cat, dog, owl; did you mean 'dog'\?"),
    (0.5, {"dog": 1.7}, r"a score of 1\.7 is asked for; expected one from 0 to 1"),
    (float("nan"), {}, r"a score of nan"),
]


@pytest.mark.parametrize(("score", "by_class", "message"), WRONG)
def test_thresholds_that_make_no_sense(
    score: float, by_class: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        class_thresholds(CLASSES, score, by_class)


# ------------------------------------------------------------------ what it takes for an image


RGB = np.zeros((6, 9, 3), np.uint8)
RGB[:, :4] = (250, 120, 10)
RGB[:2] = (7, 8, 9)
BGR = RGB[:, :, ::-1]
GREY = np.arange(54, dtype=np.uint8).reshape(6, 9)


def turned() -> Image.Image:
    """Stored lying, to be shown as RGB is."""
    image = Image.fromarray(np.ascontiguousarray(np.rot90(RGB)))
    image.getexif()[0x0112] = 6  # a quarter, clockwise
    return image


GIVEN: list[tuple[Any, np.ndarray]] = [
    # an array is RGB, with or without alpha, or grey
    (RGB, BGR),
    (np.dstack([RGB, GREY]), BGR),
    (GREY, np.dstack([GREY] * 3)),
    # a view that is not contiguous
    (np.asfortranarray(RGB), BGR),
    (Image.fromarray(RGB), BGR),
    (Image.fromarray(RGB).convert("RGBA"), BGR),
    (Image.fromarray(GREY), np.dstack([GREY] * 3)),
    (turned(), BGR),
    (torch.from_numpy(RGB), BGR),
]


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_every_kind_of_image_becomes_bgr(given: Any, expected: np.ndarray) -> None:
    (picture,) = pictures_of(given)
    assert (picture.pixels == expected).all() and picture.pixels.flags.c_contiguous
    assert picture.path is None


def half_a_png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()[:2000]


NO_IMAGES: list[tuple[Any, str]] = [
    (RGB / 255.0, r"ndarray\) of float64 and shape \(6, 9, 3\); expected uint8.*255 \* image"),
    (RGB.transpose(2, 0, 1), r"shape \(3, 6, 9\).*transpose\(1, 2, 0\) where channels come first"),
    (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
    (np.zeros(9, np.uint8), r"shape \(9,\)"),
    (Image.fromarray(GREY.astype(np.uint16)), r"Image\) of uint16"),
    (Image.fromarray(GREY.astype(np.float32)), r"Image\) of float32"),
    (torch.zeros(3, 4, 4), r"Tensor\) of float32"),
    # channels first, as torchvision reads
    (torch.zeros(3, 4, 5, dtype=torch.uint8), r"Tensor\) of uint8 and shape \(3, 4, 5\)"),
    (np.zeros((4, 5, 1), np.uint8), r"shape \(4, 5, 1\).*image\[:, :, 0\] where there is one"),
    (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\).*list\(images\)"),
    (torch.zeros(4, 5, 3, requires_grad=True), r"image \(Tensor\): .*requires grad"),
    (Image.open(BytesIO(half_a_png())), r"image \(PngImageFile\): .*truncated"),
    (b"\x89PNG", r"an image of type bytes; .*PIL.Image.open\(io.BytesIO\(data\)\)"),
    (BytesIO(), "an image of type BytesIO"),
    (7, "an image of type int; expected a path"),
    ([RGB, None], "an image of type NoneType"),
    ("gone.jpg", "^gone.jpg: there is no such file or folder; check the path"),
]


@pytest.mark.parametrize(("given", "message"), NO_IMAGES)
def test_what_is_no_image(given: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=f"(?s){message}"):
        list(pictures_of(given))


@pytest.fixture(scope="module")
def model() -> Model:
    return finder(tiny(), batch=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(images((64, 96), (96, 64), (64, 64))):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_one_image_gives_one_result(model: Model, photos: Path) -> None:
    file = photos / "0.png"
    pixels = np.asarray(Image.open(file))
    for given in (file, str(file), pixels, Image.open(file)):
        result = model(given)
        assert isinstance(result, Result) and len(result) > 5
        assert (result.boxes == model(file).boxes).all()
        assert (result.plot() == model(file).plot()).all()
    assert model(file).path == file and model(pixels).path is None


def test_several_give_a_list_in_their_order(model: Model, photos: Path) -> None:
    files = sorted(photos.iterdir())
    arrays = [np.asarray(Image.open(file)) for file in files]
    alone = [model(file) for file in files]
    several: list[Any] = [photos, f"{photos}/*.png", files, arrays, iter(files), [photos]]
    for given in several:
        results = model(given)
        assert isinstance(results, Results)
        assert [r.image_size for r in results] == [(64, 96), (96, 64), (64, 64)]
        for result, expected in zip(results, alone, strict=True):
            assert np.allclose(result.boxes, expected.boxes, atol=1e-2)
    assert [r.name for r in model(arrays)] == ["0", "1", "2"]
    assert model([]) == []


def test_a_stream_reads_no_further_than_its_batch(model: Model) -> None:
    read, alive = 0, list[weakref.ref[Any]]()

    def camera() -> Iterator[Pixels]:
        nonlocal read
        while True:  # does not end
            read += 1
            (frame,) = images((64, 64))
            alive.append(weakref.ref(frame))
            yield frame

    stream = model.stream(camera())
    for number in range(1, 8):
        result = next(stream)
        assert isinstance(result, Result) and result.pixels is not None
        assert read <= number + 1
    assert sum(ref() is not None for ref in alive) <= 1


def test_files_leave_no_pixels_behind(model: Model, photos: Path) -> None:
    assert [r.pixels for r in model(photos)] == [None] * 3
    assert all(r.pixels is not None for r in model.stream(photos))
    (result,) = model([images((64, 64))[0]])
    assert result.pixels is not None, "nothing else has them"


def test_a_video_is_its_frames(model: Model, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    with video_file(clip, 5.0, (64, 96)) as add_frame:
        for image in images((64, 96), (64, 96), (64, 96)):
            add_frame(image)
    assert [r.plot().shape for r in model.stream(clip)] == [(64, 96, 3)] * 3
    results = model(clip)
    assert [(r.frame, r.name) for r in results] == [(n, f"clip_{n:06d}") for n in range(3)]
    with pytest.raises(TransferError, match=r"clip\.mp4: the pixels of a video's frames"):
        results[0].plot()


def test_threads_share_a_model(model: Model) -> None:
    mixed = images((64, 96), (96, 64), (64, 64), (100, 150))
    alone = [model(image) for image in mixed]
    found: dict[int, list[Result]] = {}

    def work(number: int) -> None:
        found[number] = [model(mixed[number]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        for result in found[number]:
            assert result.detections == expected.detections
