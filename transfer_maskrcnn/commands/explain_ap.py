"""The command line ``explain``: why is AP low?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transfer_maskrcnn.cli import progress, run_tool, tool_parser

_EPILOG = """
Examples:
  why a run is as good as it is:  transfer-maskrcnn explain output/mine
It needs what an evaluation leaves: inference/<dataset> with ground truth and
results; explanation.json is written beside them.
Exit status: 0; 1 for an error; 130 after Ctrl-C.
"""


def explain_ap_tool() -> None:
    """Parse the command line and explain."""
    parser = tool_parser(
        "Say in one sentence why AP is low, and show the figures behind it.", _EPILOG
    )
    parser.add_argument(
        "output_dir", type=Path, metavar="OUTPUT_DIR", help="of a run that was evaluated"
    )
    run_tool(partial(_main, parser.parse_args().output_dir))


def _main(output_dir: Path) -> None:
    from transfer_maskrcnn.evaluation.explain import (
        evaluated_folders,
        explain_folder,
        explanation_text,
    )

    folders = evaluated_folders(output_dir)
    texts = [explanation_text(f.name, explain_folder(f)) for f in progress(folders, "explaining")]
    print("\n\n".join(texts))
