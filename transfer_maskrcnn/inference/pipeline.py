"""From files to predictions on disk, a few images in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.inference.inputs import output_names, read_bgr
from transfer_maskrcnn.inference.outputs import JSON, OVERLAY, OutputFolder, Picture
from transfer_maskrcnn.inference.overlay import draw_detections
from transfer_maskrcnn.inference.predictor import Detection, Pixels, Predictor
from transfer_maskrcnn.inference.results import ResultFiles
from transfer_maskrcnn.inference.video import Video, WriteFrame, video_file

T = TypeVar("T")


class Found:
    """What a run has done so far.

    Attributes:
        pictures: how many images or frames went through the model.
        instances: class name -> how many of it were found.
        failed: how many images could not be read.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.instances: Counter[str] = Counter()
        self.failed = 0

    def add(self, detections: Sequence[Detection], classes: Sequence[str]) -> None:
        self.pictures += 1
        self.instances.update(classes[d.class_index] for d in detections)


def predict_images(
    predictor: Predictor,
    paths: Sequence[Path],
    folder: Path,
    *,
    kinds: Collection[str],
    batch: int = 1,
    report: Callable[[str], None],
) -> Found:
    """Predict on image files; an error of one is reported, and the others go on.

    Args:
        folder: what is written goes there; see :class:`OutputFolder` and :class:`ResultFiles`.
        kinds: of OVERLAY, JSON, MASKS and LABELME, those wanted.
        batch: how many images are read before the model sees them.
        report: gets a line for each image that cannot be read.
    """
    found = Found()
    outputs = OutputFolder(folder, predictor.classes, kinds)

    def pictures() -> Iterator[Picture]:
        named = zip(paths, output_names(paths), strict=True)
        for path, name in progress(named, "images", len(paths)):
            try:
                yield Picture(path, name, read_bgr(path))
            except DatasetError as error:
                found.failed += 1
                report(str(error))

    with ExitStack() as stack:
        results = _results(stack, folder, predictor, kinds)
        for picture, detections in _predicted(predictor, pictures(), batch):
            outputs.write(picture, detections)
            if results:
                results.add(_entry(picture), detections)
            found.add(detections, predictor.classes)
    return found


def predict_video(
    predictor: Predictor,
    video: Video,
    folder: Path,
    *,
    kinds: Collection[str],
    batch: int = 1,
) -> Found:
    """Predict on every frame. The overlay is a video; an image of ``images.json`` is a frame.

    Args:
        folder, kinds, batch: as for :func:`predict_images`.
    """
    found = Found()
    name = video.path.stem
    outputs = OutputFolder(folder, predictor.classes, [k for k in kinds if k != OVERLAY])
    frames = progress(video, "frames", video.frames or None)
    pictures = (
        Picture(video.path, f"{name}_{number:06d}", frame) for number, frame in enumerate(frames)
    )
    with ExitStack() as stack:
        results = _results(stack, folder, predictor, kinds)
        add_frame: WriteFrame | None = None
        if OVERLAY in kinds:
            path = folder / "overlays" / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            add_frame = stack.enter_context(video_file(path, video.rate, video.size))
        for picture, detections in _predicted(predictor, pictures, batch):
            if add_frame is not None:
                add_frame(draw_detections(picture.pixels, detections, predictor.classes))
            outputs.write(picture, detections)
            if results:
                results.add({**_entry(picture), "frame": found.pictures}, detections)
            found.add(detections, predictor.classes)
    return found


def _results(
    stack: ExitStack, folder: Path, predictor: Predictor, kinds: Collection[str]
) -> ResultFiles | None:
    if JSON not in kinds:
        return None
    return stack.enter_context(ResultFiles(folder, predictor.classes))


def _predicted(
    predictor: Predictor, pictures: Iterable[Picture], batch: int
) -> Iterator[tuple[Picture, list[Detection]]]:
    for few in _batched(pictures, batch):
        images: list[Pixels] = [picture.pixels for picture in few]
        yield from zip(few, predictor(images), strict=True)


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while few := list(islice(rest, size)):
        yield few


def _entry(picture: Picture) -> dict[str, Any]:
    height, width = picture.pixels.shape[:2]
    return {
        "file_name": picture.path.as_posix(),
        "name": picture.name,
        "height": height,
        "width": width,
    }
