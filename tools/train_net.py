#!/usr/bin/env python3
"""Fine-tune a Mask R-CNN, or evaluate one with --eval-only. See --help, and configs/."""

from transfer_maskrcnn.commands.train_net import train_net

if __name__ == "__main__":
    train_net()
