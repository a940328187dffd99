"""Commands that are killed, stopped, or run into a full disk at random, and then run again.

Each must end in what an undisturbed one gives, without litter, and without a stack trace between.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from .jobs import (
    JOBS,
    SEED,
    Job,
    WriteDataset,
    copy,
    litter,
    prepare,
    results,
    said,
    start,
    wait,
    warm_up,
)

pytestmark = pytest.mark.faults
CHAINS = int(os.environ.get("TRANSFER_FAULT_CHAINS", "10"))  # of each job, with up to 3 kills each
BY_NAME = {job.name: job for job in JOBS}


@pytest.fixture(scope="module")
def origins(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: WriteDataset
) -> Iterator[dict[bool, Path]]:
    """A folder with data, and one with a finished run in it, too."""
    warm_up()
    plain = tmp_path_factory.mktemp("plain") / "a"
    plain.mkdir()
    prepare(plain, write_dataset)
    trained = copy(plain, plain.parent / "b")
    assert wait(start(BY_NAME["train"], trained)) == 0, said(trained)
    yield {False: plain, True: trained}


@pytest.fixture(scope="module")
def undisturbed(
    origins: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, object], float]]:
    """What each job gives, and how long it takes."""
    found = {}
    for job in JOBS:
        folder = copy(origins[job.needs_run], tmp_path_factory.mktemp("whole") / job.name)
        begin = time.monotonic()
        status = wait(start(job, folder))
        assert status == 0, said(folder)
        found[job.name] = (results(job, folder), time.monotonic() - begin)
    return found


# what says that the kill came after the end: nothing finished is overwritten
DONE = ("nothing is overwritten", "of an earlier prediction", "is there already", "exists already")


def finish(job: Job, folder: Path, expected: dict[str, object]) -> None:
    status = wait(start(job, folder, again=True))
    words = said(folder)
    assert status == 0 or any(text in words for text in DONE), words
    assert results(job, folder) == expected
    assert litter(folder) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", BY_NAME)
def test_kills(name: str, sent: signal.Signals, origins, undisturbed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job, (expected, seconds) = BY_NAME[name], undisturbed[name]
    chance = random.Random(f"{SEED} {name} {sent}")
    kills, numbers = 0, count()
    chains = CHAINS if sent == signal.SIGKILL else max(1, CHAINS // 5)
    for _ in range(chains):
        folder = copy(origins[job.needs_run], tmp_path / f"chain{next(numbers)}")
        for again in range(3):
            moment = chance.uniform(0, seconds)
            status = wait(start(job, folder, again=again > 0), moment, sent)
            words = said(folder)
            assert "Traceback" not in words, f"seed {SEED}, after {moment:.3f} s\n{words}"
            if status is not None:  # it was faster
                assert status == 0 or any(text in words for text in DONE), words
                break
            kills += 1
        else:
            finish(job, folder, expected)
            continue
        assert results(job, folder) == expected
    print(f"seed {SEED}: {name}: {kills} x {sent.name}")


@pytest.mark.parametrize("name", BY_NAME)
def test_full_disks(name: str, origins, undisturbed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Files of at most so many bytes: from none that can be written to all but the largest."""
    job, (expected, _) = BY_NAME[name], undisturbed[name]
    chance = random.Random(f"{SEED} {name} disk")
    for number in range(max(1, CHAINS * 7 // 10)):
        folder = copy(origins[job.needs_run], tmp_path / f"disk{number}")
        most = int(10 ** chance.uniform(1, 5.5))
        status = wait(start(job, folder, most_bytes=most))
        words = said(folder)
        assert "Traceback" not in words, f"seed {SEED}, {most} bytes\n{words}"
        if status:
            last = words.strip().splitlines()[-1] if words.strip() else ""
            assert status == 1, f"{most} bytes: {words}"
            assert ("error: " in words and "/" in words) or "." in last, words
        finish(job, folder, expected)
