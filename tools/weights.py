#!/usr/bin/env python3
"""List the weights that are known by name, or fetch some. See --help."""

from transfer_maskrcnn.commands.weights import weights_tool

if __name__ == "__main__":
    weights_tool()
