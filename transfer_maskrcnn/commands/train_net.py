"""The command line ``train``: detectron2's arguments, one clear line for a mistake."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_maskrcnn.cli import parse_arguments, run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.engine import HookBase

AFTER_INTERRUPT = "where a checkpoint was written, --resume goes on from it"
EXAMPLES = """
Examples:
  train:      transfer-maskrcnn train \\
                --config-file configs/shapes/mask_rcnn_transfer.yaml
  evaluate:   ... the same with --eval-only (the last checkpoint of OUTPUT_DIR,
              or MODEL.WEIGHTS)
  go on:      ... the same with --resume
  your data:  ... DATASETS.CATALOG my.yaml DATASETS.TRAIN "('a_train',)" \\
                DATASETS.TEST "('a_val',)"
Exit status: 0; 1 for an error; 3 where training diverged (the loss is no longer
finite); 130 after Ctrl-C.
"""


def train_parser() -> argparse.ArgumentParser:
    """The arguments of detectron2's ``default_argument_parser``, which needs torch to make them."""
    parser = tool_parser("Train a model of a config, or evaluate one.", EXAMPLES)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="a YAML config, or one of configs/")
    add("--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add("--num-gpus", type=int, default=1, help="GPUs of this machine, a process each")
    add("--num-machines", type=int, default=1, help="how many machines train together")
    add("--machine-rank", type=int, default=0, help="the number of this machine, from 0")
    # of one user always the same, so that a process that was left behind is noticed
    url = f"tcp://127.0.0.1:{2**15 + 2**14 + getattr(os, 'getuid', int)() % 2**14}"
    add("--dist-url", default=url, help="where processes meet: tcp://HOST:PORT of machine 0")
    return parser


def train_net() -> None:
    """Parse the command line, then train or evaluate, in as many processes as it asks for."""
    args = parse_arguments(train_parser())
    run_tool(partial(_launch, args), AFTER_INTERRUPT)


def _launch(args: argparse.Namespace) -> None:
    import torch
    from detectron2.engine import launch

    if args.num_gpus > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices on this machine"
        )
    launch(
        run_process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def run_process(args: argparse.Namespace) -> None:
    """What each process of a run does: on several GPUs it is a process of its own."""
    run_tool(partial(train_or_evaluate, args), AFTER_INTERRUPT)


def train_or_evaluate(
    args: argparse.Namespace, hooks: Sequence[HookBase] = (), least: int = logging.DEBUG
) -> None:
    """What a command line asks for, in this process.

    Args:
        hooks: take part in a training.
        least: the level from which on the terminal is told what is logged.
    """
    from detectron2.utils import comm

    from transfer_maskrcnn.config import load_config, run_folder
    from transfer_maskrcnn.engine import run
    from transfer_maskrcnn.engine.manifest import check_same_run, resumed_seed
    from transfer_maskrcnn.engine.setup import fit_config
    from transfer_maskrcnn.surgery.load import trained_file

    cfg = load_config(args.config_file, args.opts)
    own = run_folder(args.config_file) if args.eval_only or args.resume else None
    if own and trained_file(own) and "OUTPUT_DIR" not in args.opts[::2]:
        cfg.OUTPUT_DIR = str(own)
    logs = run.Logs(least)
    seed = resumed_seed(cfg) if args.resume else None
    spec = fit_config(cfg, eval_only=args.eval_only, seed=seed)
    cfg = spec.resolve(cfg)
    if cfg.MODEL.DEVICE == "cpu":
        run.keep_freed_memory()
    if args.eval_only:
        # with its logs beside the predictions: the run's own log and config.yaml stay
        begin = partial(logs.begin, cfg, os.path.join(cfg.OUTPUT_DIR, "inference"), args)
        run.evaluate(cfg, spec, cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in args.opts else None, begin)
        return
    # All that can be wrong with a run is found before anything of an earlier one is touched.
    if args.resume:
        check_same_run(cfg)
    else:
        run.check_start(cfg, spec)
    with run.only_run_in(cfg.OUTPUT_DIR):
        if not args.resume:
            run.set_aside(cfg.OUTPUT_DIR)
        logs.begin(cfg, cfg.OUTPUT_DIR, args)
        run.train(cfg, spec, resume=args.resume, hooks=hooks)
    if comm.is_main_process():
        from transfer_maskrcnn.report.run_page import write_run_report

        print(f"Report: {write_run_report(Path(cfg.OUTPUT_DIR))}")
