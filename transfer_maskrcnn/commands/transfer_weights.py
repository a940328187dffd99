"""The command line of tools/transfer_weights.py: show a plan, write its result, compare files."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_maskrcnn.cli import parse_arguments, run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError, TransferPlanError
from transfer_maskrcnn.files import write_text

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

EXAMPLES = """
Examples:
  what would move:    python tools/transfer_weights.py --dry-run \\
                        --config-file configs/shapes/mask_rcnn_transfer.yaml
  move it:            ... --output start.safetensors (or .pth), not --dry-run
  what really moved:  python tools/transfer_weights.py \\
                        --diff start.pth output/model_final.pth
Exit status: 0; 1 for an error, or for a plan that strict mode refuses.
"""


def transfer_weights_tool() -> None:
    """Parse the command line and do what it asks."""
    parser = _parser()
    args = parse_arguments(parser)
    if not (args.dry_run or args.output or args.diff):
        parser.error("one of --dry-run, --output and --diff is needed")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    run_tool(partial(_main, args))


def _main(args: argparse.Namespace) -> None:
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.surgery.diff import diff_weights
    from transfer_maskrcnn.surgery.load import load_weights

    _check_outputs(args)
    if args.diff:
        trust = load_config(args.config_file, args.opts).MODEL.TRANSFER.TRUST_PICKLE
        a, b = (load_weights(path, trust_pickle=trust) for path in args.diff)
        diff = diff_weights(a, b)
        print(diff.table())
        if args.json:
            write_text(args.json, diff.to_json())
    else:
        _transfer(args)


def _check_outputs(args: argparse.Namespace) -> None:
    for path in filter(None, (args.output, args.json)):
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")
    if args.output and args.output.suffix not in (".pth", ".safetensors"):
        raise ConfigError(f"--output {args.output}: expected a name in .pth or .safetensors")


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "Show, or write, what MODEL.WEIGHTS gives to the model of a config.", EXAMPLES
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="as for train_net.py")
    parser.add_argument("--weights", metavar="FILE", help="instead of the config's MODEL.WEIGHTS")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="print the plan, write no weights")
    action.add_argument(
        "--output", type=Path, metavar="FILE", help="write the model: .pth or .safetensors"
    )
    action.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two weight files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan or difference")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as train_net.py")
    return parser


def _transfer(args: argparse.Namespace) -> None:
    import torch

    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.incremental.classes import extend
    from transfer_maskrcnn.surgery.apply import apply_plan, write_weights
    from transfer_maskrcnn.surgery.hook import plan_of_config
    from transfer_maskrcnn.surgery.load import UNTRAINED_KEY
    from transfer_maskrcnn.surgery.names import part_of

    cfg = load_config(args.config_file, args.opts)
    if args.weights is not None:
        cfg.MODEL.WEIGHTS = args.weights
    classes = _target_classes(cfg)
    if cfg.MODEL.TRANSFER.EXTEND:
        classes, _ = extend(cfg, classes)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(max(cfg.SEED, 0))  # of the tensors that stay initialised
    if not cfg.MODEL.TRANSFER.ENABLED:
        raise TransferPlanError("MODEL.TRANSFER.ENABLED is False: there is nothing to plan")
    source, model, plan = plan_of_config(cfg, classes)
    print(plan.table())
    if args.json:
        write_text(args.json, plan.to_json())
    for warning in plan.check(cfg.MODEL.TRANSFER.STRICT):
        print(f"warning: {warning}")
    if args.output:
        apply_plan(plan, source, model)
        untrained = [t.target for t in plan.tensors if t.target and t.fate == "initialised"]
        metadata = {
            "thing_classes": classes,
            "transfer": plan.summary(),
            UNTRAINED_KEY: [name for name in untrained if part_of(name) != "settings"],
        }
        write_weights(args.output, model.state_dict(), metadata)
        print(f"Written to {args.output}")


def _target_classes(cfg: CfgNode) -> list[str]:
    """The class names of the training set, which is read only where the catalog lacks them."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer_maskrcnn.data.registry import register_catalog

    if cfg.DATASETS.CATALOG:
        register_catalog(cfg.DATASETS.CATALOG)
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN names no dataset; its class names make the target's")
    name = cfg.DATASETS.TRAIN[0]
    if name not in DatasetCatalog:
        raise ConfigError(f"no dataset is registered as {name!r}")
    if not MetadataCatalog.get(name).get("thing_classes"):
        DatasetCatalog.get(name)
    return list(MetadataCatalog.get(name).thing_classes)
