"""The slow part, on all cores: every image decoded, mapped, and its instances looked at."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import torch

from transfer_maskrcnn.cli import progress
from transfer_maskrcnn.doctor.image_facts import ImageFacts, image_facts
from transfer_maskrcnn.doctor.instances import Seen, look_at_instances
from transfer_maskrcnn.errors import DatasetError

Record = dict[str, Any]
Mapper = Callable[[Record], Any]

_FEWEST_FOR_PROCESSES = 32
_CHUNK = 8


@dataclass(frozen=True)
class Look:
    """What was found in one image."""

    facts: ImageFacts
    instances: list[Seen]


def look_at_images(
    name: str, records: Sequence[Record], scales: Sequence[float], mapper: Mapper
) -> list[Look]:
    """A :class:`Look` a record, in their order.

    Args:
        name: of the dataset, for the progress bar.
        records: detectron2 dataset dicts.
        scales: how many times larger the network sees each image.
        mapper: what training does to a record; an error it raises is told of.
    """
    with _workers(len(records), mapper) as run:
        results = run(zip(records, map(float, scales), strict=True))
        try:
            return list(progress(results, f"looking at {name}", len(records)))
        except BrokenProcessPool:
            raise DatasetError(
                f"dataset {name!r}: a process that looked at its images was killed, probably for "
                "its memory; is there an image of enormous size?"
            ) from None


@contextmanager
def _workers(count: int, mapper: Mapper) -> Iterator[Callable[[Any], Iterator[Look]]]:
    cores = len(os.sched_getaffinity(0))
    if count < _FEWEST_FOR_PROCESSES or cores == 1:
        _start(mapper)
        yield lambda tasks: map(_look, tasks)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a forked process would wait for ever for threads that it does not have
    # Forked, as the workers of a DataLoader: importing torch again would take seconds.
    executor = ProcessPoolExecutor(
        min(cores, 32), multiprocessing.get_context("fork"), _start_worker, (mapper,)
    )
    try:
        yield lambda tasks: executor.map(_look, tasks, chunksize=_CHUNK)
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


_mapper: Mapper | None = None  # of this process: a mapper need not be sent with every image


def _start(mapper: Mapper) -> None:
    global _mapper
    _mapper = mapper


def _start_worker(mapper: Mapper) -> None:
    torch.set_num_threads(1)
    _start(mapper)


def _look(task: tuple[Record, float]) -> Look:
    record, scale = task
    assert _mapper is not None
    return Look(image_facts(record, _mapper), look_at_instances(record, scale))
