"""An arm is one process: its AP is collected, its failure shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.study.arms import run_arm

# Stands for tools/train_net.py: same arguments, same files.
PROGRAM = """
import json, pathlib, sys
opts = dict(zip(sys.argv[3::2], sys.argv[4::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
(out / "config.yaml").write_text("SOLVER:\\n  MAX_ITER: 3\\n")
(out / "metrics.json").write_text('{"iteration": 2}\\n{"itera')
if sys.argv[2].endswith("bad.yaml"):
    print("error: the dataset is empty")
    sys.exit(1)
ap = {"AP": 10 + int(opts["SEED"])}
print(sys.argv)
out.joinpath("evaluation.json").write_text(json.dumps({"val": {"bbox": ap, "segm": {"AP": None}}}))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "train_net.py"
    path.write_text(PROGRAM)
    return path


def test_collects_ap_and_starts_from_an_empty_folder(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "left_by_another_run").touch()
    result = run_arm("transfer", 2, program, Path("good.yaml"), out)
    assert (result.arm, result.seed, result.box_ap) == ("transfer", 2, 12)
    assert result.mask_ap == 0, "NaN of COCO: nothing was detected"
    assert result.seconds > 0
    assert not (out / "left_by_another_run").exists()


def test_a_failed_run_shows_its_last_words(program: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"ended with 1:\nerror: the dataset is empty"):
        run_arm("transfer", 0, program, Path("bad.yaml"), tmp_path / "out")
