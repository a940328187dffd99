#!/usr/bin/env python3
"""Show or write what a weight file gives to a model, or compare two files. See --help."""

from transfer_maskrcnn.commands.transfer_weights import transfer_weights_tool

if __name__ == "__main__":
    transfer_weights_tool()
