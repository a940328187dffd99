#!/usr/bin/env python3
"""From a folder of annotated images to an own model. See --help."""

from transfer_maskrcnn.commands.finetune import finetune_tool

if __name__ == "__main__":
    finetune_tool()
