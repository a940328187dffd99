#!/usr/bin/env python3
"""Compare starting points for fine-tuning, with error bars. See --help."""

from transfer_maskrcnn.commands.compare_inits import compare_inits

if __name__ == "__main__":
    compare_inits()
