import os
import signal

import cv2
import pytest

from transfer_maskrcnn.doctor import workers
from transfer_maskrcnn.doctor.workers import look_at_images
from transfer_maskrcnn.errors import DatasetError

from .conftest import HEIGHT, WIDTH, blob, picture


@pytest.fixture
def records(tmp_path):
    found = []
    for i in range(40):
        file = str(tmp_path / f"{i}.png")
        cv2.imwrite(file, picture(i))
        annotation = {
            "bbox": [10, 10, 30, 30],
            "bbox_mode": 0,
            "category_id": 0,
            "segmentation": [blob(20, 20, 1.0 if i == 7 else 10.0)],
        }
        found.append(
            {"file_name": file, "height": HEIGHT, "width": WIDTH, "annotations": [annotation]}
        )
    return found


def _mapper(record):
    if record["file_name"].endswith("5.png"):
        raise RuntimeError(f"in process {os.getpid()}\nof image {record['file_name']}")
    return record


def test_processes_find_what_one_finds_in_the_same_order(records, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    parallel = look_at_images("toy", records, [1.0] * 40, _mapper)
    monkeypatch.setattr(workers, "_FEWEST_FOR_PROCESSES", 100)
    single = look_at_images("toy", records, [1.0] * 40, _mapper)
    assert [look.instances for look in parallel] == [look.instances for look in single]
    assert [look.facts.digest for look in parallel] == [look.facts.digest for look in single]
    assert [seen.kind for seen in parallel[7].instances] == ["tiny", "box_off"]
    failed = [i for i, look in enumerate(parallel) if look.facts.failure]
    assert failed == [5, 15, 25, 35]
    message = parallel[5].facts.failure
    assert message.startswith("RuntimeError: in process") and "\n" not in message
    assert str(os.getpid()) not in message  # it was another process


def test_a_worker_that_is_killed_is_told_of(records, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    parent = os.getpid()

    def mapper(record):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DatasetError, match=r"'toy': a process .* was killed"):
        look_at_images("toy", records, [1.0] * 40, mapper)
