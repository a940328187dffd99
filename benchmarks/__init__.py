"""Times this project beside stock detectron2, in pairs of processes: tools/benchmark.py."""
