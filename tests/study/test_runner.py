"""Each run once, on whichever GPU is free, whatever ended the study before."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from transfer_maskrcnn.config import RunSpec
from transfer_maskrcnn.errors import ConfigError, TransferError
from transfer_maskrcnn.files import write_json
from transfer_maskrcnn.study import runner
from transfer_maskrcnn.study.design import Design, make_design
from transfer_maskrcnn.study.runner import StudyRunner


class Trainings:
    """Stands for the processes: counts them, and lets one fail or be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.started: Counter[str] = Counter()
        self.gpus: dict[str, list[str]] = {}
        self.fail: str | None = None
        self.together: threading.Barrier | None = None
        monkeypatch.setattr(runner, "train", self.train)
        monkeypatch.setattr(runner, "collect", self.collect)
        monkeypatch.setattr(
            runner,
            "run_keys",
            lambda configs: {
                run: {"config": f"{cfg.SOLVER.MAX_ITER}", "data": "d"}
                for run, cfg in configs.items()
            },
        )

    def train(self, arguments: list[str], folder: Path, environment: Any, *rest: Any) -> str:
        self.started[folder.name] += 1
        self.gpus.setdefault(environment.get("CUDA_VISIBLE_DEVICES", ""), []).append(folder.name)
        if self.together is not None and sum(self.started.values()) <= self.together.parties:
            self.together.wait(30)
        if folder.name == self.fail:
            raise TransferError(f"{folder.name} failed")
        return ""

    def collect(self, run: Any, folder: Path, key: Any, diverged: str) -> dict[str, Any]:
        result = {"key": key, "message": "", "results": {"segm/AP": 1.0}, "folder": run.folder}
        write_json(folder / "result.json", result)
        return result


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Trainings:
    monkeypatch.chdir(repository)
    # the data is not looked at: what is registered under these names may not be there
    monkeypatch.setattr("transfer_maskrcnn.study.design.fit_config", lambda cfg: RunSpec(("x",)))
    return Trainings(monkeypatch)


def design(seeds: int = 2, *options: str) -> Design:
    config = "configs/shapes/mask_rcnn_transfer.yaml"
    return make_design(config, options, ["from_scratch", "backbone"], [0.5, 1], seeds)


NAMES = [
    f"{variant}_f{fraction}_s{seed}"
    for seed in (0, 1)
    for fraction in ("0.5", "1")
    for variant in ("from_scratch", "backbone")
]


def test_every_run_once_and_in_order(trainings: Trainings, tmp_path: Path) -> None:
    results = StudyRunner(design(), tmp_path).run()
    assert [result["folder"] for result in results] == [f"runs/{name}" for name in NAMES]
    assert trainings.started == Counter(NAMES)
    assert set(trainings.gpus) == {""}

    again = StudyRunner(design(), tmp_path).run()
    assert again == results and trainings.started == Counter(NAMES)

    more = StudyRunner(design(3), tmp_path).run()
    assert len(more) == 12 and set(trainings.started.values()) == {1}, "only the third seed"


def test_a_gpu_each_and_a_free_one_takes_the_next(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7,8")
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 4)
    trainings.together = threading.Barrier(3)  # broken unless three run at a time
    StudyRunner(design(), tmp_path, gpus=3).run()
    assert sorted(trainings.gpus) == ["2", "5", "7"]
    assert sorted(name for names in trainings.gpus.values() for name in names) == sorted(NAMES)


def test_a_failure_ends_the_study_and_what_is_done_stays(
    trainings: Trainings, tmp_path: Path
) -> None:
    trainings.fail = NAMES[2]
    with pytest.raises(TransferError, match="failed"):
        StudyRunner(design(), tmp_path).run()
    assert trainings.started == Counter(NAMES[:3])
    trainings.fail = None
    StudyRunner(design(), tmp_path).run()
    assert trainings.started == Counter([*NAMES, NAMES[2]])
    assert threading.active_count() < 5, "no worker is left"


def test_a_folder_of_another_study_is_left_alone(trainings: Trainings, tmp_path: Path) -> None:
    StudyRunner(design(), tmp_path).run()
    other = design(2, "SOLVER.MAX_ITER", "7", "SOLVER.STEPS", "(5,)")
    with pytest.raises(ConfigError, match=r"holds a run with another config.*--output-dir"):
        StudyRunner(other, tmp_path).run()
    assert trainings.started == Counter(NAMES)
