"""The table of commands: what ``transfer-maskrcnn`` and ``tools/`` have."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """What ``transfer-maskrcnn NAME`` and ``tools/FILE`` run: a function of ``commands.MODULE``."""

    module: str
    function: str
    file: str
    help: str


COMMAND = "transfer-maskrcnn"
COMMANDS = {
    "check": Command(
        *("check_dataset", "check_dataset", "check_dataset.py"),
        "examine datasets, mend or convert them",
    ),
    "config": Command(
        *("make_config", "make_config_tool", "make_config.py"),
        "write a config that is fitted to a dataset",
    ),
    "finetune": Command(
        *("finetune", "finetune_tool", "finetune.py"), "from a folder of images to an own model"
    ),
    "train": Command(
        *("train_net", "train_net", "train_net.py"), "train a model of a config, or evaluate one"
    ),
    "predict": Command(
        *("predict", "predict_tool", "predict.py"), "find objects in images or a video"
    ),
    "explain": Command(
        *("explain_ap", "explain_ap_tool", "explain_ap.py"), "say why the AP of a run is low"
    ),
    "compare": Command(
        *("compare_inits", "compare_inits", "compare_inits.py"),
        "compare starting points, with error bars",
    ),
    "transfer": Command(
        *("transfer_weights", "transfer_weights_tool", "transfer_weights.py"),
        "show or write what weights give to a model",
    ),
    "few-shot": Command(
        *("make_few_shot", "make_few_shot_tool", "make_few_shot.py"),
        "write subsets of a few instances of each class",
    ),
    "pseudo-label": Command(
        *("pseudo_label", "pseudo_label_tool", "pseudo_label.py"),
        "label what the weights know on images that lack it",
    ),
    "summarise": Command(
        *("summarise_runs", "summarise_runs_tool", "summarise_runs.py"),
        "print one table of several runs",
    ),
    "weights": Command(
        *("weights", "weights_tool", "weights.py"), "list or fetch weights that are known by name"
    ),
}
