"""The command line of tools/train_net.py: detectron2's arguments, one clear line for a mistake."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from transfer_maskrcnn.cli import DIVERGED_STATUS, parse_arguments, run_tool
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.engine import run
from transfer_maskrcnn.engine.machine import keep_freed_memory, quiet_third_parties
from transfer_maskrcnn.engine.resume import check_same_run, resumed_seed
from transfer_maskrcnn.engine.run import check_weights_stay
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.errors import ConfigError, TrainingDivergedError, TransferError
from transfer_maskrcnn.report.run_page import write_run_report

# How the long messages begin that go to log.txt alone.
DUMPS = ("Environment info", "Contents of args", "Running with full config", "Model:")
EXAMPLES = """
Examples:
  train:      python tools/train_net.py \\
                --config-file configs/shapes/mask_rcnn_transfer.yaml
  evaluate:   ... the same with --eval-only (the last checkpoint of OUTPUT_DIR,
              or MODEL.WEIGHTS)
  go on:      ... the same with --resume
  your data:  ... DATASETS.CATALOG my.yaml DATASETS.TRAIN "('a_train',)" \\
                DATASETS.TEST "('a_val',)"
Exit status: 0; 1 for an error; 3 where training diverged (the loss is no longer
finite); 130 after Ctrl-C.
"""


def train_net() -> None:
    """Parse the command line, then train or evaluate, in as many processes as it asks for."""
    args = parse_arguments(default_argument_parser(epilog=EXAMPLES))
    run_tool(partial(_launch, args), "where a checkpoint was written, --resume goes on from it")


def _launch(args: argparse.Namespace) -> None:
    if args.num_gpus > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices on this machine"
        )
    launch(
        _main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    if not args.eval_only:
        output_dir = Path(load_config(args.config_file, args.opts).OUTPUT_DIR)
        print(f"Report: {write_run_report(output_dir)}")


def _main(args: argparse.Namespace) -> None:
    quiet_third_parties()
    try:
        cfg = load_config(args.config_file, args.opts)
        setup_logger(cfg.OUTPUT_DIR, name="transfer_maskrcnn", abbrev_name="transfer")
        seed = resumed_seed(cfg) if args.resume else None
        spec = fit_config(cfg, eval_only=args.eval_only, seed=seed)
        cfg = spec.resolve(cfg)
        if not args.eval_only:  # before config.yaml is written anew
            check = check_same_run if args.resume else check_weights_stay
            check(cfg)
        if cfg.MODEL.DEVICE == "cpu":
            keep_freed_memory()
        _set_up(_evaluation_logs(cfg) if args.eval_only else cfg, args)
        if args.eval_only:
            named = cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in args.opts else None
            run.evaluate(cfg, spec, named)
        else:
            run.train(cfg, spec, resume=args.resume)
    except TrainingDivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(DIVERGED_STATUS)
    except BrokenPipeError:
        raise
    except (TransferError, OSError) as error:  # OSError: a full disk, no right to write, ...
        sys.exit(f"error: {_first_cause(error)}")


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first: detectron2 evaluates and logs after an error too, and fails again."""
    while error.__context__ is not None and not isinstance(error, TransferError):
        error = error.__context__
    return error


def _set_up(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's default_setup, whose long dumps go to log.txt alone."""
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
    for handler in logging.getLogger("detectron2").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not record.getMessage().startswith(DUMPS))
    default_setup(cfg, args)


def _evaluation_logs(cfg: CfgNode) -> CfgNode:
    """``cfg`` with its logs beside the predictions: the run's own log and config.yaml stay."""
    logs = cfg.clone()
    logs.defrost()
    logs.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "inference")
    return logs
