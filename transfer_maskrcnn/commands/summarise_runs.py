"""The command line ``summarise``: one table of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfer_maskrcnn.cli import run_tool, tool_parser
from transfer_maskrcnn.files import write_json

EXAMPLES = """
A row gathers the runs whose folders differ by seed alone: few_5shot_seed2 is a
run of few_5shot, extended_s0 of extended, and so is extended/s0. Rows are in
the order in which they were given; few_1shot comes before few_10shot.

A model that was fine-tuned on novel classes alone has their AP, and no more.

Examples:
  transfer-maskrcnn summarise output/extended_s* output/plain_s*
  against a model of the novel classes alone:
    transfer-maskrcnn summarise output/alone_s* output/extended_s* \\
      --reference alone --json table.json
  few shots:
    transfer-maskrcnn summarise output/few_*shot_seed*
Exit status: 0; 1 for an error, such as unfinished runs, or other test sets.
"""


def summarise_runs_tool() -> None:
    """Parse the command line and print the table."""
    run_tool(summarise_runs)


def summarise_runs(argv: Sequence[str] | None = None) -> None:
    """Print a row of figures for each group of runs.

    Args:
        argv: as on the command line; None takes it from there.

    Raises:
        TransferError: runs that are missing, unfinished, damaged or cannot be compared; no such
            reference.
    """
    parser = tool_parser(
        "Print AP of base and novel classes, and what was forgotten: mean and interval\n"
        "over the runs that differ by seed alone.",
        EXAMPLES,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="OUTPUT_DIR of a finished run"
    )
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help="also print base AP in %% of the source model's, and novel AP in %% of this row's",
    )
    parser.add_argument("--box", action="store_true", help="box AP in place of mask AP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same figures to FILE")
    args = parser.parse_args(argv)
    from transfer_maskrcnn.study.intervals import find_row, group_rows, rows_json
    from transfer_maskrcnn.study.results import read_runs
    from transfer_maskrcnn.study.words import rows_text

    task = "bbox" if args.box else "segm"
    rows = group_rows(read_runs(args.runs, task))
    reference = find_row(rows, args.reference) if args.reference else None
    print(rows_text(rows, task, reference))
    if args.json:
        write_json(args.json, rows_json(rows, task, reference))
        print(f"Written to {args.json}")
