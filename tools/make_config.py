#!/usr/bin/env python3
"""Write a config that is fitted to a dataset. See --help."""

from transfer_maskrcnn.commands.make_config import make_config_tool

if __name__ == "__main__":
    make_config_tool()
