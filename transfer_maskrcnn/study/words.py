"""A study's outcome in sentences."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from transfer_maskrcnn.study.compare import Comparison

KIND = {"segm": "mask AP", "bbox": "box AP"}
# against a variant without weights, and against one with others
ABOUT_WEIGHTS = {
    "better": "Pre-trained weights pay here",
    "worse": "Pre-trained weights do harm here",
    "cannot tell": "Whether pre-trained weights pay here cannot be told",
}
ABOUT_VARIANTS = {
    "better": "{a} is better than {b} here",
    "worse": "{a} is worse than {b} here",
    "cannot tell": "Whether {a} or {b} is better here cannot be told",
}


def verdict(
    task: str,
    variant: dict[str, Any],
    reference: dict[str, Any],
    comparison: Comparison,
    images: int,
    *,
    about_weights: bool,
) -> str:
    """One or two sentences on ``variant`` against ``reference``, two cells of a study.

    Args:
        images: of the validation set.
        about_weights: whether ``variant`` starts from weights and ``reference`` from none.
    """
    seeds = f"{comparison.seeds} seed{'s' * (comparison.seeds != 1)}"
    counted = f"{images} validation image{'s' * (images != 1)}, {seeds}"
    several = comparison.seeds > 1  # one pair of runs says nothing about weights as such
    openings = ABOUT_WEIGHTS if about_weights and several else ABOUT_VARIANTS
    opening = openings[comparison.verdict].format(a=variant["variant"], b=reference["variant"])
    if not several:
        opening = f"In one run of each, {opening[0].lower()}{opening[1:]}"
    zero = "includes" if comparison.verdict == "cannot tell" else "excludes"
    text = (
        f"{opening}: {variant['variant']} reaches {KIND[task]} {variant['mean']:.1f}, "
        f"{reference['variant']} {reference['mean']:.1f}, and the 95 % interval of the difference, "
        f"{_bound(comparison.low)} to {_bound(comparison.high)}, {zero} zero ({counted})."
    )
    if comparison.verdict == "better" and variant["reaches"]:
        text += f" The final AP of {reference['variant']}: it {variant['reaches']['words']}."
    if comparison.seeds == 1:
        text += (
            " The interval covers the choice of images alone: other seeds may differ by more, and "
            "--seeds 3 finds out."
        )
    return text


def _bound(value: float) -> str:
    """With as many digits as it takes to see on which side of zero it lies."""
    digits = next((d for d in (1, 2, 3) if abs(value) >= 0.5 * 10**-d), 4)
    return f"{value:+.{digits if value else 1}f}"


def table(content: dict[str, Any]) -> str:
    """The variants of a ``study.json``, for a terminal: a line a variant and fraction."""
    task = content["metric"].partition("/")[0]
    images = {entry["fraction"]: entry["images"] for entry in content["train_images"]}
    transferred = {variant["name"]: variant["transferred"] for variant in content["variants"]}
    rows = [
        [
            _clipped(cell["variant"], 26),
            f"{int(100 * transferred[cell['variant']])}%",  # 100 is all of it, not nearly all
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
    """Without its middle, where it is too long: file names differ at their ends."""
    head = (width - 3) // 2
    return text if len(text) <= width else f"{text[:head]}...{text[head + 3 - width :]}"
