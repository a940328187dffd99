#!/usr/bin/env python3
"""Find objects in images or a video with a trained model. See --help."""

from transfer_maskrcnn.commands.predict import predict_tool

if __name__ == "__main__":
    predict_tool()
