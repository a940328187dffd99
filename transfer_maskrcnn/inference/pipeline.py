"""From files to predictions on disk, a few images in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.inference.inputs import Video, output_names, read_bgr
from transfer_maskrcnn.inference.outputs import Picture, open_outputs
from transfer_maskrcnn.inference.predictor import Predictor
from transfer_maskrcnn.text import few


@dataclass
class Found:
    """What a run has done so far.

    Attributes:
        pictures: how many images or frames went through the model.
        instances: class name -> how many of it were found.
        failed: how many images could not be read.
    """

    pictures: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def summary(self, unit: str) -> str:
        """ "2 images, 5 instances (cat 3, dog 2)", and how many were left out."""
        shown = [f"{name} {times}" for name, times in self.instances.most_common()]
        counts = f" ({few(shown, 8)})" if shown else ""
        left_out = f"\n{self.failed} {unit} left out: they could not be read" if self.failed else ""
        return f"{self.pictures} {unit}, {self.instances.total()} instances{counts}{left_out}"


def predict(
    predictor: Predictor,
    source: Sequence[Path] | Video,
    folder: Path,
    *,
    kinds: Collection[str],
    batch: int = 1,
    report: Callable[[str], None],
) -> Found:
    """Predict on image files, or on each frame of a video.

    An image that cannot be read is reported, and the others go on. The overlay of a video is one,
    and its images in ``images.json`` are its frames.

    Args:
        folder: what is written goes there.
        kinds: of OVERLAY, JSON, MASKS and LABELME, those wanted.
        batch: how many images are read before the model sees them.
        report: gets a line for each image that cannot be read.
    """
    found = Found()
    video = source if isinstance(source, Video) else None
    pictures = _frames(source) if isinstance(source, Video) else _images(source, found, report)
    with open_outputs(folder, predictor.classes, kinds, video) as writes:
        while several := list(islice(pictures, batch)):
            found_in = predictor([picture.pixels for picture in several])
            for picture, detections in zip(several, found_in, strict=True):
                for write in writes:
                    write(picture, detections)
                found.pictures += 1
                found.instances.update(predictor.classes[d.class_index] for d in detections)
    return found


def _images(
    paths: Sequence[Path], found: Found, report: Callable[[str], None]
) -> Iterator[Picture]:
    named = zip(paths, output_names(paths), strict=True)
    for path, name in progress(named, "images", len(paths)):
        try:
            yield Picture(path, name, read_bgr(path))
        except DatasetError as error:
            found.failed += 1
            report(str(error))


def _frames(video: Video) -> Iterator[Picture]:
    for number, frame in enumerate(progress(video, "frames", video.frames or None)):
        yield Picture(video.path, f"{video.path.stem}_{number:06d}", frame, number)
