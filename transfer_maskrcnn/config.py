"""The configuration keys this project adds to detectron2's, how a config is read, and RunSpec."""

from __future__ import annotations

import io
import os
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

try:
    from detectron2.projects.point_rend import add_pointrend_config
except ImportError:  # not every build of detectron2 brings its projects
    add_pointrend_config = None

from transfer_maskrcnn.cli import split_pairs
from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.files import CONFIGS, parse_yaml, shipped
from transfer_maskrcnn.text import shorten

# MODEL.ROI_HEADS.NUM_CLASSES as detectron2 has it: nobody has stated a number.
FOLLOW_DATASET = 80
#: what a run writes of its config
CONFIG_FILE = "config.yaml"

# What a message of yacs is about -> what to write instead; what is expected comes first.
_HINTS = {"(<class 'tuple'> vs.": '. A list is written "[1,2]"'}
_FREE_KINDS = ("MODEL.TRANSFER.NEW_CLASS_INIT", "DATASETS.CATALOG")
# Lists of which one alone may be written as it is -> its kind.
_LISTS = {
    **dict.fromkeys(("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.TEST_BASE"), str),
    "MODEL.TRANSFER.SOURCE_CLASSES": str,
    **dict.fromkeys(("TEST.EVAL_ITERS", "SOLVER.STEPS", "INPUT.MIN_SIZE_TRAIN"), int),
}


@dataclass(frozen=True)
class Schedule:
    """What a run counts in its own iterations; each field is the key of that name.

    Attributes:
        reference_world_size: the number of processes that the other values are meant for.
    """

    max_iter: int
    steps: tuple[int, ...]
    warmup_iters: int
    checkpoint_period: int
    freeze_schedule: list[Any]
    ims_per_batch: int
    base_lr: float
    reference_world_size: int
    eval_period: int
    eval_iters: list[int]

    @classmethod
    def of(cls, cfg: CfgNode) -> Schedule:
        """The values that stand in ``cfg``."""
        return cls(**{f.name: _node_of(cfg, f.name)[f.name.upper()] for f in fields(cls)})


@dataclass(frozen=True)
class RunSpec:
    """What the program finds out about a run; a config is what the user wrote.

    ``engine.setup.fit_config`` computes it, once, and the run's ``run.json`` keeps it.

    Attributes:
        classes: names of the model's classes, in order: its datasets', or, with
            ``MODEL.TRANSFER.EXTEND``, the source's and then the novel ones.
        tasks: of an extended model, how many classes the first model had, and how many each
            extension added; a class is scored among those that were there before it, or came with
            it. Empty for any other, and where the weights say it (``--eval-only``).
        seed: at least 0.
        mask_format: "polygon" or "bitmask".
        schedule: None where nothing is trained.
    """

    classes: tuple[str, ...]
    tasks: tuple[int, ...] = ()
    seed: int = 0
    mask_format: str = "polygon"
    schedule: Schedule | None = None

    def resolve(self, cfg: CfgNode) -> CfgNode:
        """A frozen copy of ``cfg`` with the keys that detectron2 reads set to what is known."""
        own = editable(cfg)
        own.MODEL.ROI_HEADS.NUM_CLASSES = len(self.classes)
        if "POINT_HEAD" in own.MODEL:
            own.MODEL.POINT_HEAD.NUM_CLASSES = len(self.classes)
        own.INPUT.MASK_FORMAT, own.SEED = self.mask_format, self.seed
        if self.schedule is not None:
            for name, value in asdict(self.schedule).items():
                _node_of(own, name)[name.upper()] = value
            own.SOLVER.EPOCHS = 0.0  # MAX_ITER counts
        own.freeze()
        return own

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def editable(cfg: CfgNode) -> CfgNode:
    """A copy of ``cfg`` whose keys can be set."""
    own = cfg.clone()
    own.defrost()
    return own


def _node_of(cfg: CfgNode, name: str) -> CfgNode:
    return cfg.TEST if name.startswith("eval_") else cfg.SOLVER


# What MODEL.TRANSFER says: what is taken from MODEL.WEIGHTS, and what becomes of it.
_TRANSFER: Mapping[str, Any] = {
    # False: MODEL.WEIGHTS is loaded as stock detectron2 does, by name and shape.
    "ENABLED": True,
    # What is taken from MODEL.WEIGHTS, from least to most: random_init | backbone | backbone_fpn |
    # backbone_fpn_rpn | all_but_predictors | class_rows; or module prefixes, comma-separated.
    "KEEP": "all_but_predictors",
    # True: a transfer that would not do what the config says is an error; False: a warning.
    "STRICT": True,
    # Class names of MODEL.WEIGHTS where the file does not carry them: names, or one dataset's name.
    "SOURCE_CLASSES": [],
    # [source class, target class] pairs that class_rows matches beside equal names. One source may
    # serve several targets (a class that was split); a target of several sources (classes that
    # were merged) gets the mean of their rows.
    "CLASS_MAP": [],
    # Rows of classes that no source class matches: None or "default" (as detectron2 initialises),
    # "mean" (of all source rows), or the name of a source class; or [new class, one of these]
    # pairs. A pair wins over CLASS_MAP: it names one parent of a merged class.
    "NEW_CLASS_INIT": None,
    # True, with KEEP class_rows: the model's classes are the source's and then the novel ones of
    # DATASETS.TRAIN, matched by name; every row of the source is kept.
    "EXTEND": False,
    # True: unpickle MODEL.WEIGHTS without restriction. It can run any code: for files you made.
    "TRUST_PICKLE": False,
    # Not yours to set. The config.yaml of a finished run has what it trained in MODEL.WEIGHTS, for
    # detectron2's DefaultPredictor, and here [that file, what it started from]: this project's
    # tools read the second in the place of the first.
    "TRAINED_FROM": [],
    # Parts that keep their weights for the whole run, as in KEEP's presets ("backbone_fpn" ...), or
    # module prefixes, comma-separated; "" freezes nothing beside MODEL.BACKBONE.FREEZE_AT. With
    # EXTEND, "all_but_novel_rows" leaves only the rows of novel classes to train.
    "FREEZE": "",
    # Objects of base classes that nobody annotated.
    "PSEUDO_LABELS": {
        # True, with EXTEND: MODEL.WEIGHTS labels its classes on the training images, before
        # training; classes that DATASETS.TRAIN annotates are left to its annotations.
        "ENABLED": False,
        # A detection of at least this score becomes ground truth; where CALIBRATION_SET is named,
        # each class has a score of its own, and this is that of classes of which the set says too
        # little.
        "SCORE": 0.7,
        # Below that, and of at least this score, it is doubtful: no loss depends on whether it is
        # real.
        "IGNORE_SCORE": 0.1,
        # A dataset in which source classes are annotated (neither trained nor tested on): the score
        # of each class is the lowest that is right in TARGET_PRECISION of its detections there.
        "CALIBRATION_SET": "",
        # Above 0 to 1: the share of its detections on CALIBRATION_SET that has to be right.
        "TARGET_PRECISION": 0.8,
    },
    # Above 0, with EXTEND: a loss of this weight keeps what the model says of the source's classes
    # close to what the source says.
    "DISTILLATION": 0.0,
    # Whether what frozen layers make of an image is kept and not computed again: "auto" where it
    # pays (in memory; where all does not fit in half of what is free, in files under OUTPUT_DIR),
    # "memory", "disk" or "off".
    "CACHE_FEATURES": "auto",
}
# Where in detectron2's config -> the keys that this project adds there, with their defaults.
_OWN_KEYS: Mapping[str, Mapping[str, Any]] = {
    "DATASETS": {
        # A YAML file that declares more datasets (its form: docs/formats.md), or a list of such
        # files; paths in it are relative to it. Also a folder or file of a dataset, which is
        # recognised. None: built-in names only.
        "CATALOG": None,
        # Sets of the source's classes, beside DATASETS.TEST, with MODEL.TRANSFER.EXTEND: the source
        # model is evaluated on them once, and how much the run has forgotten is told.
        "TEST_BASE": (),
        # Share of the training images that is used, above 0 to 1: a subset that keeps the classes'
        # proportions, drawn from SEED; of one seed, a smaller one lies within a larger one.
        "TRAIN_FRACTION": 1.0,
    },
    "DATALOADER": {
        # How many times more instances the most frequent class may have than the rarest before
        # images of rare classes are drawn more often (SAMPLER_TRAIN TrainingSampler); 0: never.
        "REPEAT_IMBALANCE": 0.0,
    },
    "MODEL": {"TRANSFER": _TRANSFER},
    "MODEL.ROI_BOX_HEAD": {
        # Above 0: classes are scored by the cosine between features and their rows, times this
        # (TFA, https://arxiv.org/abs/2003.06957, has 20); 0: detectron2's linear layer.
        "COSINE_SCALE": 0.0,
    },
    "SOLVER": {
        # [iterations, FREEZE] pairs to begin with: what is frozen for so many iterations, beside
        # MODEL.TRANSFER.FREEZE; e.g. [[200, "all_but_predictors"], [200, "backbone"]].
        "FREEZE_SCHEDULE": [],
        # [part or module prefix, factor] pairs: SOLVER.BASE_LR times factor, the last that fits
        # wins.
        "LR_MULTIPLIERS": [],
        # L2-SP (https://arxiv.org/abs/1802.01483): above 0, transferred weights are pulled with
        # this strength towards where they started, in place of WEIGHT_DECAY towards zero.
        "L2_SP": 0.0,
        # Above 0: evaluation and the exported model use an exponential moving average of the
        # weights.
        "EMA_DECAY": 0.0,
        # Above 0: MAX_ITER becomes so many passes over the training images, and STEPS the same
        # shares of it; all else that is counted in iterations stays. A MAX_ITER on the command line
        # wins.
        "EPOCHS": 0.0,
    },
    "TEST": {
        # Iterations after which to evaluate, beside EVAL_PERIOD's; 0 evaluates the starting point.
        "EVAL_ITERS": [],
        # True: every evaluation also measures the training losses on DATASETS.TEST.
        "VAL_LOSS": False,
        # The figure of an evaluation ("segm/AP", "bbox/AP50", "val_loss" ...) whose best checkpoint
        # is kept as model_best.pth and becomes the final model, and which EARLY_STOPPING follows;
        # "" keeps none: the final model is the last.
        "BEST_METRIC": "",
        # Above 0: training ends after so many evaluations in a row without a better BEST_METRIC.
        "EARLY_STOPPING": 0,
    },
}


def add_transfer_config(cfg: CfgNode) -> None:
    """Add this project's keys, and the defaults it changes, to a detectron2 ``cfg`` in place.

    PointRend's keys as well, where detectron2 brings it: a run's config.yaml holds them.
    """
    if add_pointrend_config is not None and "POINT_HEAD" not in cfg.MODEL:
        add_pointrend_config(cfg)
    for place, keys in _OWN_KEYS.items():
        node = reduce(getattr, place.split("."), cfg)
        for key, value in CfgNode(keys).items():  # of copies: no two configs share a list
            setattr(node, key, value)
    # MODEL.ROI_HEADS.NUM_CLASSES follows the dataset, unless another number than detectron2's 80
    # is stated, which is compared with it.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config_file(name: str, said: str = "--config-file") -> str:
    """The path of a config: ``name`` itself, or what comes with the package under that name.

    ``balloon/mask_rcnn_R_50_FPN.yaml``, with or without ``configs/``; "" (no file) stays.

    Raises:
        ConfigError: there is none; with the nearest name of those that come with the package.
    """
    path = shipped(name)
    if name and not os.path.isfile(path):
        known = [own.relative_to(CONFIGS).as_posix() for own in CONFIGS.rglob("*.yaml")]
        hint = nearest(name.removeprefix("configs/"), sorted(known))
        raise ConfigError(f"{said} {name}: there is no such file{hint}")
    return path


def run_folder(config_file: str) -> Path | None:
    """The folder of the run whose own config this is, also after it was moved; else None."""
    return Path(config_file).parent if os.path.basename(config_file) == CONFIG_FILE else None


def load_config(name: str, opts: Sequence[str] = ()) -> CfgNode:
    """Defaults of detectron2 and this project, then a config, then ``KEY VALUE`` pairs.

    Files are read as plain YAML: a tag that makes Python objects is refused, in ``_BASE_``, too.
    In both a name may stand for a list of one, 3 for 3.0 and true for True.

    Args:
        name: as :func:`config_file` takes it, and so is ``_BASE_``; "" for the defaults alone.

    Raises:
        ConfigError: no such file, not plain YAML, an unknown key (with the nearest right one) or a
            value of the wrong type.
    """
    cfg = get_cfg()
    add_transfer_config(cfg)
    place = path = config_file(name)
    try:
        if path:
            # detectron2's own way runs the code that a tag of a file, or of its _BASE_, names
            _merge(cfg, flat_config(CfgNode(_PlainFiles.load_yaml_with_base(path))))
            if cfg.MODEL.TRANSFER.TRAINED_FROM[:1] == [cfg.MODEL.WEIGHTS]:
                cfg.MODEL.WEIGHTS = cfg.MODEL.TRANSFER.TRAINED_FROM[-1]
            cfg.MODEL.TRANSFER.TRAINED_FROM = []
        place = "command line"
        typed = split_pairs(opts)
        if len(typed) % 2:
            raise ConfigError(f"{typed[-1]}: a key without a value; write KEY VALUE, or KEY=VALUE")
        if "SOLVER.MAX_ITER" in typed[::2]:  # what is typed wins over the file's EPOCHS
            cfg.SOLVER.EPOCHS = 0.0
        _merge(cfg, zip(typed[::2], typed[1::2], strict=True))
    except (KeyError, AssertionError) as error:  # yacs
        raise ConfigError(_unknown_key(cfg, str(error.args[0]))) from None
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        hint = "".join(hint for sign, hint in _HINTS.items() if sign in str(error))
        raise ConfigError(f"{place}: {shorten(str(error), 400)}{hint}") from None
    except (TypeError, AttributeError, RecursionError) as error:  # of what is no mapping at all
        raise ConfigError(
            f"{place}: not a config ({shorten(str(error), 400)}); expected KEY: value pairs, "
            "sections with pairs of their own, and _BASE_, if at all, the name of another such file"
        ) from None
    if cfg.MODEL.TRANSFER.NEW_CLASS_INIT == "default":
        cfg.MODEL.TRANSFER.NEW_CLASS_INIT = None  # said in one way only, so that runs compare equal
    return cfg


def _merge(cfg: CfgNode, pairs: Iterable[tuple[str, Any]]) -> None:
    """Set dotted keys, of a file or of a command line, to values of the kinds they have."""
    known = dict(flat_config(cfg))
    for key, value in pairs:
        if key in _FREE_KINDS:  # yacs would not put a list in place of a text
            cfg.merge_from_list([key, None])
        cfg.merge_from_list([key, _fitted(key, value, known.get(key))])


def _fitted(key: str, value: Any, default: Any) -> Any:
    """``value`` as the key's kind has it, where there is no doubt what is meant."""
    plain = value
    if isinstance(value, str):
        if type(default) is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        with suppress(ValueError, SyntaxError):
            plain = literal_eval(value)
    if type(plain) is _LISTS.get(key):
        return () if plain == "" else (plain,)
    kinds = (type(default), type(plain))
    if kinds == (float, int) or (kinds == (int, float) and plain.is_integer()):
        return type(default)(plain)
    return value


class _PlainFiles(CfgNode):
    """Opens what :func:`parse_yaml` can read, and nothing else; finds a ``_BASE_`` by name."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        with super()._open_cfg(filename) as file:
            text = file.read()
        content = parse_yaml(text, filename, ConfigError)
        base = content.get("_BASE_") if isinstance(content, dict) else None
        if isinstance(base, str) and "://" not in base:
            beside = os.path.join(os.path.dirname(filename), os.path.expanduser(base))
            if not os.path.exists(beside):
                content["_BASE_"] = os.path.abspath(config_file(base, f"{filename}: _BASE_"))
                text = yaml.safe_dump(content)
        return io.StringIO(text)


def _unknown_key(cfg: CfgNode, message: str) -> str:
    if "Non-existent" not in message:
        return message  # e.g. a key without a value
    key = message.rpartition(": ")[2]
    known = [*cfg, *(key for key, _ in flat_config(cfg))]
    siblings = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown config key {key!r}{nearest(key, siblings) or nearest(key, known)}"


def flat_config(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config in its dotted form, with its value."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
