"""Explanations of what an evaluation left in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import DatasetError, TransferError
from transfer_maskrcnn.evaluation.explain.checks import check_results, check_truth
from transfer_maskrcnn.evaluation.explain.explanation import Explanation, explain
from transfer_maskrcnn.evaluation.explain.facts import read_facts
from transfer_maskrcnn.files import write_json

EXPLANATION_FILE = "explanation.json"
RESULTS_FILE = "coco_instances_results.json"


def evaluated_folders(output_dir: Path) -> list[Path]:
    """The folders of ``output_dir/inference`` that hold a ground truth and results, by name.

    Raises:
        TransferError: there is none.
    """
    folders = sorted(
        folder
        for folder in (output_dir / "inference").glob("*")
        if _truth_file(folder).is_file() and (folder / RESULTS_FILE).is_file()
    )
    if not folders:
        raise TransferError(
            f"{output_dir}: there is no evaluation, that is no inference/<dataset>/{RESULTS_FILE} "
            "with its ground truth; give the OUTPUT_DIR of a run, or evaluate with "
            "tools/train_net.py --eval-only"
        )
    return folders


def explain_folder(folder: Path) -> dict[str, Explanation]:
    """Explain what is in ``OUTPUT_DIR/inference/<dataset>``, and write ``explanation.json`` there.

    Returns:
        by task: "segm", first, where all detections and objects have masks, and "bbox".

    Raises:
        TransferError: a file is missing, damaged, or of another evaluation than the others.
    """
    truth, results = _read(_truth_file(folder), dict), _read(folder / RESULTS_FILE, list)
    check_truth(_truth_file(folder), truth)
    check_results(folder / RESULTS_FILE, results, truth)
    facts = read_facts(folder)
    annotations = truth.get("annotations", [])
    masked = all("segmentation" in shape for shape in [*annotations, *results])
    tasks = ["segm", "bbox"] if masked else ["bbox"]
    try:
        explained = {task: explain(truth, results, task=task, facts=facts) for task in tasks}
    except TransferError:
        raise
    except Exception as error:  # run lengths that are none make pycocotools raise anything
        raise DatasetError(
            f"{folder}: the ground truth or the results are damaged ({error}); evaluate again"
        ) from error
    write_json(folder / EXPLANATION_FILE, {task: one.as_json() for task, one in explained.items()})
    return explained


def read_sentence(folder: Path) -> str:
    """The sentence of the ``explanation.json`` in ``folder``; "" without one that is whole."""
    path = folder / EXPLANATION_FILE
    if not path.is_file():
        return ""
    try:
        return str(next(iter(_read(path, dict).values()))["sentence"])
    except (TransferError, LookupError, StopIteration, TypeError):
        return ""


def _truth_file(folder: Path) -> Path:
    return folder / f"{folder.name}_ground_truth.json"


def _read(path: Path, shape: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TransferError(f"{path} cannot be read as JSON ({error}); evaluate again") from error
    if not isinstance(content, shape):
        raise TransferError(f"{path}: expected a JSON {shape.__name__}; evaluate again")
    return content
