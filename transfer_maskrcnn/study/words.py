"""A study's outcome in sentences."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from transfer_maskrcnn.study.compare import Comparison

KIND = {"segm": "mask AP", "bbox": "box AP"}
OPENING = {
    "better": "Pre-trained weights pay here",
    "worse": "Pre-trained weights do harm here",
    "cannot tell": "Whether pre-trained weights pay here cannot be told",
}


def verdict(
    task: str, arm: dict[str, Any], reference: dict[str, Any], comparison: Comparison, images: int
) -> str:
    """One or two sentences on ``arm`` against ``reference``, two cells of a study.

    Args:
        images: of the validation set.
    """
    seeds = f"{comparison.seeds} seed{'s' * (comparison.seeds != 1)}"
    zero = " includes zero" if comparison.verdict == "cannot tell" else ""
    text = (
        f"{OPENING[comparison.verdict]}: {arm['arm']} reaches {KIND[task]} {arm['mean']:.1f}, "
        f"{reference['arm']} {reference['mean']:.1f}, and the 95 % interval of the difference, "
        f"{comparison.low:+.1f} to {comparison.high:+.1f},{zero or ' excludes zero'} "
        f"({images} validation images, {seeds})."
    )
    if comparison.verdict == "better" and arm["reaches"]:
        text += f" The final AP of {reference['arm']}: it {arm['reaches']['words']}."
    if comparison.seeds == 1:
        text += (
            " One seed: the interval covers the choice of images alone, and other seeds may differ "
            "by more; --seeds 3 finds out."
        )
    return text


def table(content: dict[str, Any]) -> str:
    """The arms of a ``study.json``, for an 80-column terminal: a line an arm and fraction."""
    task = content["metric"].partition("/")[0]
    images = {entry["fraction"]: entry["images"] for entry in content["train_images"]}
    transferred = {arm["name"]: arm["transferred"] for arm in content["arms"]}
    rows = [
        [
            _clipped(cell["arm"], 26),
            f"{transferred[cell['arm']]:.0%}",
            images[cell["fraction"]],
            cell["mean"],
            "{:.1f} to {:.1f}".format(*cell["interval"]),
            cell["means"].get(f"{task}/AP50"),
        ]
        for cell in content["cells"]
    ]
    headers = ["start", "kept", "images", KIND[task], "95 % interval", "AP50"]
    return tabulate(rows, headers, floatfmt=".1f", colalign=("left", *["right"] * 5))


def _clipped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
