"""The page of a comparison of starting points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.page import write_page
from transfer_maskrcnn.report.study_plots import by_images_picture, curves_picture, final_picture
from transfer_maskrcnn.report.study_view import Study
from transfer_maskrcnn.report.texts import either, kept, metric_name
from transfer_maskrcnn.report.tiles import comparison_tiles
from transfer_maskrcnn.text import listed, plural

MIN_SCORE = 0.5


def write_study_report(folder: Path) -> Path:
    """Write ``report.html``: one file, without scripts, that needs nothing beside itself.

    Args:
        folder: holds ``study.json``; ``costs.json`` and the runs' folders where they are still
            there. What has no data has no section.

    Returns:
        the path of the page.

    Raises:
        TransferError: there is no comparison in ``folder``, it is of another version, or damaged.
    """
    return write_page(folder, "study.html", _content(Study(folder)))


def _content(study: Study) -> dict[str, Any]:
    facts, comparisons = study.facts, study.facts["comparisons"]
    titles, results = study.result_groups()
    settings, shared = study.settings()
    plots = [draw(study, f) for f in study.fractions for draw in (final_picture, curves_picture)]
    return {
        "study": study,
        "looks": study.looks,
        "metric": metric_name(study.metric),
        "question": "Why start from pre-trained weights?",
        "data": f"{facts['train']}, {plural(max(study.images.values()), 'image')}",
        "verdict": facts["verdict"],
        "compared": _compared(study),
        "plots": plots,
        "by_images": by_images_picture(study) if len(study.fractions) > 1 else None,
        "kept": {variant["name"]: kept(variant["keep"]) for variant in study.variants},
        "titles": titles,
        "results": results,
        "comparisons": {
            f: some
            for f in study.fractions
            if (some := [c for c in comparisons if c["fraction"] == f])
        },
        "shows_reaches": any(cell["reaches"] for cell in study.cells.values()),
        "one_seed": any(c["seeds"] == 1 for c in comparisons),
        "more_seeds": any(c["seeds"] > 1 for c in comparisons),
        "classes": study.class_rows(),
        "moved": study.moved(),
        **_tiles(study),
        "min_score": MIN_SCORE,
        "settings": settings,
        "shared_settings": shared,
        "commands": facts["commands"],
        "repeat": _repeat(study),
        "failed": [run for run in study.runs if run["status"] != "finished"],
    }


def _compared(study: Study) -> dict[str, str]:
    """What, in words."""
    facts, sizes = study.facts, sorted(study.images.values())
    images, objects = plural(facts["val_images"], "image"), plural(facts["val_instances"], "object")
    budget, batch = plural(facts["iterations"], "iteration"), facts["images_per_batch"]
    return {
        "Trained on": f"{facts['train']}: {either(sizes)} images",
        "Measured on": f"{facts['val']}: {images} with {objects}",
        "Classes": listed(facts["classes"]),
        "Budget of a run": f"{budget} of {plural(batch, 'image')}",
        "Seeds": listed(facts["seeds"]),
        "Metric": f"{metric_name(study.metric)} (COCO), from 0 to 100",
    }


def _repeat(study: Study) -> dict[str, str]:
    def words(facts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in facts.items())

    found = {
        "Config": study.facts["config_file"],
        "Versions": words(study.facts["versions"]),
        "Machine": words(study.machine),
    }
    return {name: text for name, text in found.items() if text}


def _tiles(study: Study) -> dict[str, Any]:
    """Predictions of every variant's first seed at the largest fraction that has some: where they
    come from in words, and the pictures, or why there are none."""
    for fraction in study.fractions:
        truth, predictions = _inference(study, fraction)
        try:
            tiles = comparison_tiles(truth, predictions, min_score=MIN_SCORE) if truth else None
        except TransferError as error:
            return {"tiles": None, "tiles_from": "", "tiles_problem": str(error)}
        if tiles is not None:
            where = study.fraction_text(fraction)
            return {"tiles": tiles, "tiles_from": where, "tiles_problem": ""}
    return {"tiles": None, "tiles_from": "", "tiles_problem": ""}


def _inference(study: Study, fraction: float) -> tuple[Path | None, dict[str, Path]]:
    """Ground truth, and variant -> predictions of its first seed that has some."""
    val = study.facts["val"]
    truth: Path | None = None
    predictions: dict[str, Path] = {}
    for name in study.names:
        for run in study.runs_of(name, fraction):
            folder = study.folder / run["folder"] / "inference" / val
            found = folder / "coco_instances_results.json"
            here = folder / f"{val}_ground_truth.json"
            if run["status"] == "finished" and found.is_file() and here.is_file():
                predictions[name], truth = found, truth or here
                break
    return truth, predictions
