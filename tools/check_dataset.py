#!/usr/bin/env python3
"""Examine datasets before training; mend or convert them. See --help."""

from transfer_maskrcnn.commands.check_dataset import check_dataset

if __name__ == "__main__":
    check_dataset()
