#!/usr/bin/env python3
"""Why is AP low? One sentence, and the figures behind it. See --help."""

from transfer_maskrcnn.commands.explain_ap import explain_ap_tool

if __name__ == "__main__":
    explain_ap_tool()
