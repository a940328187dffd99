"""The starting points that a study compares: each a few settings on top of one config."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode

from transfer_maskrcnn.errors import ConfigError, nearest
from transfer_maskrcnn.modeling.freezing import ALL_BUT_NOVEL_ROWS
from transfer_maskrcnn.surgery.names import PRESETS

FAIR = "from_scratch"
VARIANT_NAMES = (*PRESETS, FAIR)
GROUPS = 32  # of detectron2's "GN"
IMAGENET_STD = [57.375, 57.12, 58.395]  # of the three channels, of pixels from 0 to 255
# what spares weights that are worth it, and would only hinder random ones
_NO_CARE_FOR_WEIGHTS = (
    *("MODEL.TRANSFER.FREEZE", "", "SOLVER.FREEZE_SCHEDULE", "[]", "SOLVER.LR_MULTIPLIERS", "[]"),
    *("SOLVER.L2_SP", "0.0"),
)
_AS_IT_IS = ("MODEL.TRANSFER.STRICT", "False", "SOLVER.L2_SP", "0.0")
WITH_FILE = "backbone@imagenet.pkl"
LEAST_WARMUP = 0.1  # of the iterations


@dataclass(frozen=True)
class Variant:
    """One starting point.

    Attributes:
        name: ``backbone``, ``from_scratch``; with a file of its own ``backbone@imagenet.pkl``,
            wherever that file lies.
        text: as the user wrote it, with the file's folder.
        keep: the preset of MODEL.TRANSFER.KEEP.
        weights: the weight file; "" for none.
        settings: ``KEY VALUE`` pairs in which this variant differs from the config.
    """

    name: str
    text: str
    keep: str
    weights: str
    settings: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The name as part of a folder's name."""
        return "".join(
            c if c.isalnum() or c in "._-" else "-" for c in self.name.replace("@", "-at-")
        )


def parse_variant(text: str, cfg: CfgNode) -> Variant:
    """``PRESETS``, ``PRESETS@WEIGHTS`` or ``from_scratch`` for the config ``cfg``.

    Raises:
        ConfigError: no such preset, a file where none is taken, or none where one is needed.
    """
    preset, at, file = (part.strip() for part in text.partition("@"))
    if preset not in VARIANT_NAMES:
        raise ConfigError(
            f"--variants: there is no variant {preset!r}; expected {', '.join(VARIANT_NAMES)}, "
            f"those that take weights also as {WITH_FILE}{nearest(preset, VARIANT_NAMES)}"
        )
    if preset in ("random_init", FAIR):
        if at:
            raise ConfigError(
                f"--variants {text}: {preset} trains from random weights and takes no file"
            )
        settings = _fair_settings(cfg) if preset == FAIR else list(_AS_IT_IS)
        return _variant(preset, preset, "random_init", "", settings, cfg)
    weights = file or cfg.MODEL.WEIGHTS
    if not weights:
        raise ConfigError(
            f"--variants {text}: it needs weights; set MODEL.WEIGHTS in the config, or write "
            f"{preset}@FILE"
        )
    name = f"{preset}@{file.rpartition('/')[2]}" if at else preset
    return _variant(name, text.strip(), preset, weights, [], cfg)


def _variant(
    name: str, text: str, keep: str, weights: str, settings: list[str], cfg: CfgNode
) -> Variant:
    common = ["MODEL.WEIGHTS", weights, "MODEL.TRANSFER.KEEP", keep]
    if keep != "class_rows":  # the plan refuses these where they would mean nothing
        common += ["MODEL.TRANSFER.CLASS_MAP", "[]", "MODEL.TRANSFER.NEW_CLASS_INIT", "default"]
        common += _without_extension(cfg)
    return Variant(name, text, keep, weights, (*common, *settings))


def _without_extension(cfg: CfgNode) -> list[str]:
    """For a model of the novel classes alone: EXTEND off, and what is meant for base classes."""
    if not cfg.MODEL.TRANSFER.EXTEND:
        return []
    settings = ["MODEL.TRANSFER.EXTEND", "False", "MODEL.TRANSFER.DISTILLATION", "0.0"]
    settings += ["MODEL.TRANSFER.PSEUDO_LABELS.ENABLED", "False", "DATASETS.TEST_BASE", "()"]
    if cfg.MODEL.TRANSFER.FREEZE == ALL_BUT_NOVEL_ROWS:
        settings += ["MODEL.TRANSFER.FREEZE", ""]
    phases = [
        [n, "" if spec == ALL_BUT_NOVEL_ROWS else spec] for n, spec in cfg.SOLVER.FREEZE_SCHEDULE
    ]
    if phases != [list(phase) for phase in cfg.SOLVER.FREEZE_SCHEDULE]:
        settings += ["SOLVER.FREEZE_SCHEDULE", str(phases)]
    return settings


def _fair_settings(cfg: CfgNode) -> list[str]:
    """Training from random weights as it is done by those who know how (arXiv:1811.08883).

    All layers learn from the first iteration, at one rate; FrozenBN, which cannot, gives way to
    GroupNorm, or to BatchNorm where a layer has too few channels for 32 groups; pixels are scaled
    to unit variance; the warm-up is no shorter than a tenth of training. What the config does
    already stays, the learning rate too.
    """
    settings = ["MODEL.BACKBONE.FREEZE_AT", "0", *_NO_CARE_FOR_WEIGHTS]
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        norm = "GN" if _group_norm_fits(cfg) else "BN"
        settings += ["MODEL.RESNETS.NORM", norm]
        settings += [] if cfg.MODEL.FPN.NORM else ["MODEL.FPN.NORM", norm]
    if max(cfg.MODEL.PIXEL_STD) <= 1:
        settings += ["MODEL.PIXEL_STD", str(IMAGENET_STD)]
    warmup = max(cfg.SOLVER.WARMUP_ITERS, round(LEAST_WARMUP * cfg.SOLVER.MAX_ITER))
    return [*settings, "SOLVER.WARMUP_ITERS", str(warmup)]


def _group_norm_fits(cfg: CfgNode) -> bool:
    resnet = cfg.MODEL.RESNETS
    narrowest = (
        resnet.STEM_OUT_CHANNELS,
        resnet.NUM_GROUPS * resnet.WIDTH_PER_GROUP,
        resnet.RES2_OUT_CHANNELS,
        cfg.MODEL.FPN.OUT_CHANNELS,
    )
    return all(channels % GROUPS == 0 for channels in narrowest)
