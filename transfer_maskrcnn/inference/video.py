"""Videos, frame by frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.files import atomic_path
from transfer_maskrcnn.inference.predictor import Pixels

WriteFrame = Callable[[Pixels], object]
_USUAL_RATE = 25.0  # frames a second, for files that do not say


class Video:
    """A video file that can be read.

    Attributes:
        path: the file.
        frames: how many it says it has; 0 where it does not say.
        rate: frames a second.
        size: (height, width) in pixels, as shown.
    """

    def __init__(self, path: Path):
        """
        Raises:
            DatasetError: it holds no frame that OpenCV can read.
        """
        self.path = path
        capture = cv2.VideoCapture(str(path))
        try:
            read, first = capture.read()
            if not read:
                raise DatasetError(
                    f"{path}: OpenCV reads no frame of this video; convert it, for example to "
                    "H.264 in .mp4"
                )
            self.frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            self.rate = capture.get(cv2.CAP_PROP_FPS) or _USUAL_RATE
            self.size: tuple[int, int] = first.shape[:2]
        finally:
            capture.release()

    def __iter__(self) -> Iterator[Pixels]:
        """Frames from the first to the last that can be read, (height, width, 3), BGR."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                read, frame = capture.read()
                if not read:
                    return
                yield np.asarray(frame, dtype=np.uint8)
        finally:
            capture.release()


@contextmanager
def video_file(path: Path, rate: float, size: tuple[int, int]) -> Iterator[WriteFrame]:
    """An .mp4 file that takes its name when the block ends, in whatever way, with what it has then.

    It gives a function that adds a frame.

    Args:
        rate: frames a second.
        size: (height, width) in pixels.

    Raises:
        DatasetError: OpenCV cannot write it.
    """
    with atomic_path(path) as temporary:
        growing = temporary.with_name(f"{temporary.name}.mp4")  # OpenCV goes by the suffix
        writer = cv2.VideoWriter(str(growing), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
        if not writer.isOpened():
            growing.unlink(missing_ok=True)
            raise DatasetError(
                f"{path}: this build of OpenCV writes no mp4v video; leave --overlay out"
            )
        interruption: BaseException | None = None
        try:
            yield lambda frame: writer.write(frame)
        except BaseException as error:
            interruption = error
        writer.release()
        os.replace(growing, temporary)
    if interruption is not None:
        raise interruption
