"""The command line ``transfer``: show a plan, write its result, compare files."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_maskrcnn.cli import parse_arguments, run_tool, tool_parser
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.files import write_text

if TYPE_CHECKING:  # what is heavy is imported once the command line is understood
    from detectron2.config import CfgNode

EXAMPLES = """
Examples:
  what would move:    transfer-maskrcnn transfer --dry-run \\
                        --config-file configs/shapes/mask_rcnn_transfer.yaml
  move it:            ... --output start.safetensors (or .pth), not --dry-run
  what really moved:  transfer-maskrcnn transfer \\
                        --diff start.pth output/model_final.pth
Exit status: 0; 1 for an error, or for a plan that strict mode refuses.
"""


def transfer_weights_tool() -> None:
    """Parse the command line and do what it asks."""
    parser = tool_parser(
        "Show, or write, what MODEL.WEIGHTS gives to the model of a config.", EXAMPLES
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="as for training")
    add("--weights", metavar="FILE", help="instead of the config's MODEL.WEIGHTS")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--dry-run", action="store_true", help="print the plan, write no weights")
    action.add_argument(
        "--output", type=Path, metavar="FILE", help="write the model: .pth or .safetensors"
    )
    action.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two weight files")
    add("--json", type=Path, metavar="FILE", help="write the plan or difference")
    args = parse_arguments(parser)
    run_tool(partial(_main, args))


def _main(args: argparse.Namespace) -> None:
    from transfer_maskrcnn.config import load_config
    from transfer_maskrcnn.surgery.diff import diff_weights
    from transfer_maskrcnn.surgery.load import load_weights

    for path in filter(None, (args.output, args.json)):
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")
    if args.output and args.output.suffix not in (".pth", ".safetensors"):
        raise ConfigError(f"--output {args.output}: expected a name in .pth or .safetensors")
    cfg = load_config(args.config_file, args.opts)
    if args.weights is not None:
        cfg.MODEL.WEIGHTS = args.weights
    if args.diff:
        trust = cfg.MODEL.TRANSFER.TRUST_PICKLE
        _show(diff_weights(*(load_weights(f, trust_pickle=trust) for f in args.diff)), args.json)
    else:
        _transfer(cfg, args.output, args.json)


def _show(found: Any, json: Path | None) -> None:
    print(found.table())
    if json:
        write_text(json, found.to_json())


def _transfer(cfg: CfgNode, output: Path | None, json: Path | None) -> None:
    import torch

    from transfer_maskrcnn.config import RunSpec
    from transfer_maskrcnn.incremental.classes import extend
    from transfer_maskrcnn.surgery.hook import plan_of_config
    from transfer_maskrcnn.surgery.load import UNTRAINED_KEY
    from transfer_maskrcnn.surgery.plan import apply_plan
    from transfer_maskrcnn.surgery.read import write_weights
    from transfer_maskrcnn.surgery.words import Reason

    classes = _target_classes(cfg)
    if cfg.MODEL.TRANSFER.EXTEND:
        classes, _ = extend(cfg, classes)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(max(cfg.SEED, 0))  # of the tensors that stay initialised
    source, model, plan = plan_of_config(RunSpec(tuple(classes)).resolve(cfg), classes)
    _show(plan, json)
    for warning in plan.check(cfg.MODEL.TRANSFER.STRICT):
        print(f"warning: {warning}")
    if output:
        apply_plan(plan, source, model)
        new = [f for f in plan.tensors if f.fate == "initialised" and f.code is not Reason.SETTINGS]
        metadata = {
            "thing_classes": classes,
            "transfer": plan.summary(),
            UNTRAINED_KEY: [fate.name for fate in new],
        }
        write_weights(output, model.state_dict(), metadata)
        print(f"Written to {output}")


def _target_classes(cfg: CfgNode) -> list[str]:
    """The class names of the training set, which is read only where the catalog lacks them."""
    from detectron2.data import MetadataCatalog

    from transfer_maskrcnn.data.registry import register_catalogs
    from transfer_maskrcnn.engine.setup import check_dataset

    if not cfg.DATASETS.TRAIN or not cfg.MODEL.TRANSFER.ENABLED:
        raise ConfigError(
            "a plan needs MODEL.TRANSFER.ENABLED True, and DATASETS.TRAIN, whose class names make "
            "the target's"
        )
    register_catalogs(cfg.DATASETS.CATALOG)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    if not metadata.get("thing_classes"):
        check_dataset(metadata.name)
    return list(metadata.thing_classes)
