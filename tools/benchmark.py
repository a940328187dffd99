#!/usr/bin/env python3
"""How fast this is beside stock detectron2, both measured in turn on this machine.

Each side has a process of its own; they run one after the other, A B A B.
"faster" is the median of the ratios pair by pair; "limit" is what the work
cannot take less than: its FLOPs or bytes over the peak of this machine,
measured in the same run. Leave the machine alone meanwhile.

Examples:
    .venv/bin/python tools/benchmark.py --quick
    .venv/bin/python tools/benchmark.py --json benchmark.json
"""

import sys
import tempfile
from pathlib import Path

from transfer_maskrcnn.cli import run_tool, tool_parser

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller rows, in a few minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    args = parser.parse_args()
    run_tool(lambda: run(args.quick, args.json and args.json.resolve()))


def run(quick: bool, path: Path | None) -> None:
    """Measure row after row, print each, and keep them all in ``path``."""
    sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the installed package
    from benchmarks import machine
    from benchmarks.rows import QUICK, Plan, rows
    from benchmarks.table import json_of, text_of
    from transfer_maskrcnn.files import write_json

    about = machine.describe()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    peaks = machine.peaks()
    for device, found in peaks.items():
        shown = ", ".join(f"{name} {value / 1e9:.0f} G/s" for name, value in found.items())
        print(f"measured peaks of the {device}: {shown}")
    done = []
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        for row in rows(QUICK if quick else Plan(), Path(folder)):
            print("\n" + text_of(row, peaks), flush=True)
            done.append(json_of(row, peaks))
            if path:
                write_json(path, {"machine": about, "peaks": peaks, "rows": done})
    if about["gpu"] is None:
        print("\nGPU rows: not measured, torch sees no CUDA device")


if __name__ == "__main__":
    main()
