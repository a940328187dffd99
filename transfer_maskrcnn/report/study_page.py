"""The page of a comparison of starting points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer_maskrcnn.errors import TransferError
from transfer_maskrcnn.report.page import write_page
from transfer_maskrcnn.report.pictures import comparison_tiles
from transfer_maskrcnn.report.plots import looks
from transfer_maskrcnn.report.study_input import Study, read_study, settings
from transfer_maskrcnn.report.study_plots import by_images_picture, curves_picture, final_picture
from transfer_maskrcnn.report.study_tables import (
    class_rows,
    comparisons_by_fraction,
    moved,
    result_groups,
    settings_rows,
    shared_settings,
)
from transfer_maskrcnn.report.texts import either, kept, listed, metric_name, plural

MIN_SCORE = 0.5


def write_study_report(folder: Path) -> Path:
    """Write ``report.html``: one file, without scripts, that needs nothing beside itself.

    Args:
        folder: holds ``study.json``; ``costs.json`` and the runs' folders where they are still
            there. What has no data has no section.

    Returns:
        the path of the page.

    Raises:
        TransferError: there is no readable comparison in ``folder``.
    """
    study = read_study(folder)
    return write_page(folder, "study.html", _content(study))


def _content(study: Study) -> dict[str, Any]:
    facts = study.facts
    return {
        "study": study,
        "looks": looks([variant.name for variant in study.variants]),
        "metric": metric_name(study.metric),
        "question": "Why start from pre-trained weights?",
        "data": _data(study),
        "verdict": facts.get("verdict") or "",
        "compared": _compared(study),
        "plots": _plots(study),
        "by_images": by_images_picture(study) if len(study.fractions) > 1 else None,
        "kept": {variant.name: kept(variant.keep) for variant in study.variants},
        "results": result_groups(study),
        "comparisons": comparisons_by_fraction(study),
        "shows_reaches": any(cell.reaches for cell in study.cells.values()),
        "one_seed": any(c.seeds == 1 for c in study.comparisons),
        "more_seeds": any((c.seeds or 2) > 1 for c in study.comparisons),
        "classes": class_rows(study),
        "moved": moved(study),
        **_tiles(study),
        "min_score": MIN_SCORE,
        "settings": settings_rows(study),
        "shared_settings": shared_settings(study),
        "commands": facts.get("commands") or [],
        "repeat": _repeat(study),
        "options": {
            key: value
            for key, value in settings(facts.get("options") or ()).items()
            if not any(
                key in variant.settings for variant in study.variants
            )  # that the variants did not override
        },
        "failed": [run for run in study.runs if run.status != "finished"],
    }


def _data(study: Study) -> str:
    train = study.facts.get("train")
    most = max(study.images.values(), default=0)
    return ", ".join([str(train)] * bool(train) + [plural(most, "image")] * bool(most))


def _compared(study: Study) -> list[tuple[str, str]]:
    """(what, in words) for the facts that are known."""
    facts = study.facts
    found = []
    sizes = [str(images) for _, images in sorted(study.images.items())]
    if facts.get("train"):
        of = f": {either(sizes)} images" if sizes else ""
        found.append(("Trained on", f"{facts['train']}{of}"))
    if facts.get("val"):
        counted = [
            plural(facts[key], word)
            for key, word in (("val_images", "image"), ("val_instances", "object"))
            if facts.get(key) is not None
        ]
        of = f": {' with '.join(counted)}" if counted else ""
        found.append(("Measured on", f"{facts['val']}{of}"))
    if study.classes:
        found.append(("Classes", listed(study.classes)))
    if facts.get("iterations"):
        batch = facts.get("images_per_batch")
        of = f" of {plural(batch, 'image')}" if batch else ""
        found.append(("Budget of a run", f"{plural(facts['iterations'], 'iteration')}{of}"))
    if facts.get("seeds"):
        found.append(("Seeds", listed(facts["seeds"])))
    found.append(("Metric", f"{metric_name(study.metric)} (COCO), from 0 to 100"))
    return found


def _repeat(study: Study) -> list[tuple[str, str]]:
    config, versions = study.facts.get("config_file"), study.facts.get("versions") or {}
    found = [("Config", str(config))] if config else []
    if versions:
        found.append(("Versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    if study.machine:
        found.append(("Machine", ", ".join(f"{name} {v}" for name, v in study.machine.items())))
    return found


def _plots(study: Study) -> list[Any]:
    """The final metric and the learning curves, side by side for every fraction."""
    pictures = []
    for fraction in study.fractions:
        pictures.append(final_picture(study, fraction))
        if any(cell.curve for (_, f), cell in study.cells.items() if f == fraction):
            pictures.append(curves_picture(study, fraction))
    return pictures


def _tiles(study: Study) -> dict[str, Any]:
    """Predictions of every variant's first seed at the largest fraction that has some: where they come
    from in words, and the pictures, or why there are none."""
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
    val = str(study.facts.get("val") or "")
    truth: Path | None = None
    predictions: dict[str, Path] = {}
    for variant in study.variants:
        for run in study.runs_of(variant.name, fraction):
            folder = study.folder / run.folder / "inference" / val
            found = folder / "coco_instances_results.json"
            here = folder / f"{val}_ground_truth.json"
            finished = run.folder and run.status == "finished"
            if finished and found.is_file() and here.is_file():
                predictions[variant.name], truth = found, truth or here
                break
    return truth, predictions
