#!/usr/bin/env python3
"""One table of several runs: a row for those that differ by seed alone. See --help."""

from transfer_maskrcnn.commands.summarise_runs import summarise_runs_tool

if __name__ == "__main__":
    summarise_runs_tool()
