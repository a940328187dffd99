#!/usr/bin/env python3
"""Label the source model's classes on training images that lack them. See --help."""

from transfer_maskrcnn.commands.pseudo_label import pseudo_label_tool

if __name__ == "__main__":
    pseudo_label_tool()
