#!/usr/bin/env python3
"""Generate the synthetic shapes datasets (about 20 seconds).

Example:
    .venv/bin/python datasets/prepare_shapes.py
"""

import os

from transfer_maskrcnn.cli import run_tool, tool_parser


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--root",
        default=os.environ.get("DETECTRON2_DATASETS", "datasets"),
        help="folder that gets shapes/ (default: $DETECTRON2_DATASETS, else datasets)",
    )
    root = parser.parse_args().root
    from transfer_maskrcnn.data.shapes import prepare_shapes

    print(f"shapes datasets are in {prepare_shapes(root)}")


if __name__ == "__main__":
    run_tool(main)
