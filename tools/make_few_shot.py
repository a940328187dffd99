#!/usr/bin/env python3
"""Write few-shot subsets of datasets: K instances of each class, by seed. See --help."""

from transfer_maskrcnn.commands.make_few_shot import make_few_shot_tool

if __name__ == "__main__":
    make_few_shot_tool()
