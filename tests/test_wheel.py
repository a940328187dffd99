"""The wheel alone: a new environment and home, no checkout; commands are typed as they are told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .exports import labelme, roboflow, ultralytics

# Few iterations of small images.
SHORT = (
    "SOLVER.MAX_ITER 2 SOLVER.STEPS '()' SOLVER.WARMUP_ITERS 1 SOLVER.IMS_PER_BATCH 1 "
    "TEST.EVAL_PERIOD 0 TEST.EVAL_ITERS '[]' INPUT.MIN_SIZE_TRAIN '(64,)' INPUT.MIN_SIZE_TEST 64 "
    "DATALOADER.NUM_WORKERS 0"
)
BASE = "shapes/mask_rcnn_transfer.yaml"  # and its weights, configs/shapes/shapes_source.pth
Type = Callable[[str], str]


@pytest.fixture(scope="module")
def home(
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_dataset: Callable[[str, Path], dict[str, Any]],
) -> Path:
    """A stranger's home, with the wheel in an environment of its own, and a folder of photos.

    The other packages are those of the environment that runs the tests; the editable installation
    there does not count, since the .pth files of such a folder are not read.
    """
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "env", with_pip=False)
    (site,) = (home / "env/lib").glob("python*/site-packages")
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "shared.pth").write_text("\n".join(sorted(shared)))
    pip = [str(home / "env/bin/python"), "-m", "pip", "install", "--no-index", "--no-deps"]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([*pip, "-q", "--ignore-installed", str(wheel)], env=clean, check=True)
    entry = write_dataset("labelme", home / "made")
    shutil.copytree(home / "made" / entry["annotations"], home / "photos")
    for image in (home / "made" / entry["image_root"]).iterdir():
        shutil.copy(image, home / "photos")
    return home


@pytest.fixture(scope="module")
def type_in(home: Path) -> Type:
    """type_in(command) -> what it prints, in the home, with the environment activated."""
    environment = {
        "HOME": str(home),
        "PATH": f"{home / 'env/bin'}:/usr/bin:/bin",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "2",
    }

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=home, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def told(shown: str) -> str:
    """The command after "next:", with the lines that continue it."""
    return re.findall(r"^next: (.*(?:\\\n.*)*)", shown, re.MULTILINE)[-1]


@pytest.mark.slow
def test_from_photos_to_predictions(home: Path, type_in: Type) -> None:
    where = "import transfer_maskrcnn; print(transfer_maskrcnn.__file__)"
    assert Path(type_in(f'python -c "{where}"').strip()).is_relative_to(home)
    shown = type_in("transfer-maskrcnn --help")
    assert "tools/" not in shown and "predict" in shown

    command = told(type_in("transfer-maskrcnn check photos --write my.yaml"))
    assert command.startswith("transfer-maskrcnn config --catalog my.yaml")
    command = told(type_in(f"{command} --base {BASE}"))
    assert command == "transfer-maskrcnn train --config-file my_config.yaml"
    assert f"\n_BASE_: {BASE}\n" in (home / "my_config.yaml").read_text()
    type_in(f"{command} {SHORT} OUTPUT_DIR output/mine")
    assert f"{command} SOLVER.MAX_ITER 2" in (home / "output/mine/report.html").read_text()
    type_in("transfer-maskrcnn predict --weights output/mine --input photos --output found")
    assert (home / "found/predictions.json").is_file()


OWN_MODEL = """
from transfer_maskrcnn import load_model
model = load_model('output/{0}', score=0.0)
results = model('{0}/**/*.png')
assert len(results) >= 8 and sorted(model.names) == ['bar', 'blob']
assert all(result.masks.shape[1:] == result.image_size for result in results)
"""


@pytest.mark.slow
@pytest.mark.parametrize("write", [labelme, roboflow, ultralytics])
def test_one_command_to_an_own_model(
    write: Callable[[Path], Path], home: Path, type_in: Type
) -> None:
    """To a report, predictions, and a model in Python."""
    name = write.__name__
    data = write(home / name).relative_to(home)
    weights = "--weights shapes/shapes_source.pth"
    shown = type_in(f"transfer-maskrcnn finetune {data} {weights} --time 20s")
    predict, explain, compare = shown[shown.rindex("next, your own") :].strip().splitlines()[1:4]
    assert (home / f"output/{name}/report.html").is_file()
    type_in(predict.replace("--output found", f"--output found_{name}"))
    assert (home / f"found_{name}/predictions.json").is_file()
    type_in(explain)
    assert f"--config-file output/{name}/config.yaml" in compare
    type_in(f'python -c "{OWN_MODEL.format(name)}"')
