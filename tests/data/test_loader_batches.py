"""Batches that begin anywhere, and images that map the same in any worker."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from detectron2.data.samplers import TrainingSampler
from torch.utils.data import DataLoader

from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data import loader
from transfer_maskrcnn.data.datasets import Records
from transfer_maskrcnn.data.loader import Batches, SeededImages
from transfer_maskrcnn.errors import ConfigError

WIDE, UPRIGHT = (20, 10), (10, 20)
SHAPES = [WIDE, UPRIGHT, WIDE, WIDE, UPRIGHT, UPRIGHT, WIDE]


def batches(shapes: list[tuple[int, int]] | None, start: int = 0) -> Batches:
    made = Batches(TrainingSampler(len(SHAPES), seed=4), 2, shapes)
    made.start = start
    return made


@pytest.mark.parametrize("shapes", [SHAPES, None])
def test_beginning_later_gives_the_same_batches(shapes: list[tuple[int, int]] | None) -> None:
    all_of_them = list(islice(batches(shapes), 30))
    for start in (0, 1, 7, 25):
        assert list(islice(batches(shapes, start), 30 - start)) == all_of_them[start:]


def test_a_batch_holds_images_of_one_orientation() -> None:
    for batch in islice(batches(SHAPES), 50):
        assert len({SHAPES[index] for _, index in batch}) == 1
    mixed = [{SHAPES[index] for _, index in batch} for batch in islice(batches(None), 50)]
    assert any(len(kinds) == 2 for kinds in mixed)


def test_every_image_comes_once_an_epoch() -> None:
    drawn = [draw for batch in islice(batches(None), 7) for draw in batch]
    assert [number for number, _ in drawn] == list(range(14))
    assert sorted(index for _, index in drawn[:7]) == list(range(7))
    assert sorted(index for _, index in drawn[7:]) == list(range(7))


def noisy(record: dict[str, Any]) -> tuple[int, float]:
    return record["id"], float(np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_maps_the_same_in_any_worker_and_after_a_resume(workers: int) -> None:
    dicts = [{"id": i} for i in range(len(SHAPES))]

    def mapped(workers: int, start: int) -> list[Any]:
        loader = DataLoader(
            SeededImages(dicts, noisy, seed=9),
            batch_sampler=batches(SHAPES, start),
            num_workers=workers,
            collate_fn=list,
        )
        return list(islice(loader, 8 - start))

    whole = mapped(0, 0)
    assert mapped(workers, 3) == whole[3:]
    numbers = [number for batch in whole for _, number in batch]
    assert len(set(numbers)) == len(numbers), "every draw has numbers of its own"


def test_proposals_are_not_lost_in_a_cached_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = Records.__new__(Records)
    monkeypatch.setattr(loader, "DatasetCatalog", {"a_train": lazy})
    cfg = load_config("", ["MODEL.LOAD_PROPOSALS", "True", "DATASETS.TRAIN", "('a_train',)"])
    with pytest.raises(ConfigError, match=r"LOAD_PROPOSALS.*'a_train'.*TRANSFER_CACHE"):
        loader.training_records(cfg)
