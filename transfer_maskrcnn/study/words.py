"""What both studies found, in sentences and in tables for an 80-column terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from transfer_maskrcnn.study.intervals import Comparison, Estimate, Row, scored_on
from transfer_maskrcnn.text import WIDTH, number, plural, shorten, wrapped

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
_COLUMNS = {
    "base": "base\nAP",
    "novel": "novel\nAP",
    "all": "all\nAP",
    "harmonic_mean": "harm.\nmean",
    "forgetting": "\nforgot",
}


def outcome(result: dict[str, Any], task: str) -> str:
    """Of one run, which may have diverged."""
    return result["message"] or f"{KIND[task]} {result['results'].get(f'{task}/AP') or 0:.1f}"


def speed_up(own: float | None, budget: float) -> str:
    """The end of a sentence about a variant: "reaches it 6.2x sooner".

    Args:
        own: iterations that it took to reach a level; None where it never did.
        budget: iterations of the reference, above 0.
    """
    if own is None:
        return "does not reach it"
    if own == 0:
        return "is there before the first iteration"
    ratio = max(budget / own, own / budget)
    # between two far points of a curve, the place of a level is known roughly
    times = f"{ratio:.1f}x" if ratio < 10 else f"about {ratio:.0f}x"
    if times == "1.0x":
        return "reaches it just as soon"
    return f"reaches it {times} {'sooner' if own < budget else 'later'}"


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
    counted = f"{plural(images, 'validation image')}, {plural(comparison.seeds, 'seed')}"
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
    if not several:
        text += (
            " The interval covers the choice of images alone: other seeds may differ by more, and "
            "--seeds 3 finds out."
        )
    return text


def _bound(value: float) -> str:
    """With as many digits as it takes to see on which side of zero it lies."""
    digits = next((d for d in (1, 2, 3) if abs(value) >= 0.5 * 10**-d), 4)
    return f"{value:+.{digits if value else 1}f}"


def study_text(content: dict[str, Any], folder: Path) -> str:
    """A ``study.json``: a line a variant and fraction, the verdict, and where there is more."""
    from transfer_maskrcnn.report.page import REPORT_FILE
    from transfer_maskrcnn.report.study_page import STUDY_FILE  # it draws, too

    task = content["metric"].partition("/")[0]
    images = {entry["fraction"]: entry["images"] for entry in content["train_images"]}
    transferred = {variant["name"]: variant["transferred"] for variant in content["variants"]}
    rows = [
        [
            shorten(cell["variant"], 26),
            f"{int(100 * transferred[cell['variant']])}%",  # 100 is all of it, not nearly all
            images[cell["fraction"]],
            number(cell["mean"]),
            "{:.1f} to {:.1f}".format(*cell["interval"]),
            number(cell["means"].get(f"{task}/AP50")),
        ]
        for cell in content["cells"]
    ]
    headers = ["start", "kept", "images", KIND[task], "95 % interval", "AP50"]
    return (
        f"\n{_aligned(headers, rows)}\n\n{wrapped(content['verdict'], '')}\n"
        f"Figures: {folder / STUDY_FILE}\nReport:  {folder / REPORT_FILE}"
    )


def rows_text(rows: Sequence[Row], task: str, reference: Row | None) -> str:
    """The table of class-incremental runs with its notes."""
    names = [row.name for row in rows]
    table = _rows_table(rows, names, reference)
    excess = max(map(len, table.splitlines())) - WIDTH
    if excess > 0:
        most = max(8, max(map(len, names)) - excess)
        table = _rows_table(rows, [shorten(name, most) for name in names], reference)
    return "\n".join([table, "", *(wrapped(note, "") for note in _notes(rows, task, reference))])


def _rows_table(rows: Sequence[Row], names: Sequence[str], reference: Row | None) -> str:
    shares = ["kept\n%", "share\n%"] if reference else []
    lines = [
        [
            name,
            len(row.runs),
            *(_cell(row.figures[figure]) for figure in _COLUMNS),
            *map(number, row.shares(reference).values()),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    return _aligned(["", "\nruns", *_COLUMNS.values(), *shares], lines)


def _aligned(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose first column stands left and all others right, with a line below its head."""
    align = ("left", *["right"] * (len(headers) - 1))
    # as headers, tabulate would give them two more columns each
    lines = tabulate(
        [headers, *rows], tablefmt="plain", disable_numparse=True, colalign=align
    ).splitlines()
    height = 1 + max(header.count("\n") for header in headers)
    return "\n".join([*lines[:height], "-" * max(map(len, lines)), *lines[height:]])


def _notes(rows: Sequence[Row], task: str, reference: Row | None) -> list[str]:
    scored, runs = scored_on(rows), sum(len(row.runs) for row in rows)
    base = f"base classes on {', '.join(scored.base)}; " if scored.base else ""
    notes = (
        (
            True,
            f"{KIND[task][0].upper()}{KIND[task][1:]}, 0 to 100: {base}novel classes on "
            f"{', '.join(scored.novel)}.",
        ),
        (
            runs > len(rows),
            f"{plural(runs, 'run')}. Each figure is the mean over the runs of a row; ± is its 95 % "
            "interval (Student's t), which covers the seeds, not the choice of test images. A "
            "single run has none.",
        ),
        (runs == len(rows), "One run a row: how much another seed would change is not known."),
        (
            scored.base,
            "harm. mean: of base and novel AP. forgot: AP of the base classes before minus after.",
        ),
        (
            reference,
            "kept: base AP in % of the source model's. share: novel AP in % of that of the row "
            f"{reference.name if reference else ''}.",
        ),
        (
            any(row.mean(figure) is None for row in rows for figure in _COLUMNS),
            "-: not extended, or not known of every run of the row.",
        ),
    )
    return [note for holds, note in notes if holds]


def _cell(value: Estimate | None) -> str:
    if value is None:
        return number(None)
    half = "" if value.half is None else f"\n±{number(value.half)}"
    return f"{number(value.mean)}{half}"
