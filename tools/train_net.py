#!/usr/bin/env python3
"""Fine-tune a Mask R-CNN, or evaluate one with --eval-only. See --help, and configs/."""

from transfer_maskrcnn.engine.cli import train_net
from transfer_maskrcnn.report.run_page import write_run_report

if __name__ == "__main__":
    output_dir = train_net()
    if output_dir is not None:
        print(f"Report: {write_run_report(output_dir)}")
