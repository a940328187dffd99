"""Reasons and problems as codes with data, each beside its sentence.

Logic asks for codes. Sentences are made here and nowhere else in this room, for people alone.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from transfer_maskrcnn.surgery.names import PRESETS
from transfer_maskrcnn.text import listed, plural, quoted

Data = Mapping[str, Any]
_PRESETS = ", ".join(PRESETS)

# how ``{x:names}`` and so on show a value
_SHOWN: Mapping[str, Callable[[Any], str]] = {
    "names": lambda names: "unknown" if names is None else quoted(names),
    "few": lambda names: quoted(names, 4),
    "list": lambda items: ", ".join(items) or "none",
    "and": listed,
    "keep": lambda keep: keep if isinstance(keep, str) else ",".join(keep),
    "near": lambda name: f"Did you mean {name!r}? " if name else "",
}


class _Words(string.Formatter):
    """``str.format`` with the format specs of ``_SHOWN``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        show = _SHOWN.get(format_spec)
        return show(value) if show else str(super().format_field(value, format_spec))


class _Code(str, Enum):
    """A code whose members carry their sentences: what is so, and what to do about it."""

    text: str
    remedy: str

    def __new__(cls, code: str, text: str, remedy: str = "") -> _Code:
        member = str.__new__(cls, code)
        member._value_, member.text, member.remedy = code, text, remedy
        return member

    def sentence(self, data: Data = MappingProxyType({})) -> str:
        return _Words().vformat(self.text, (), data)


class Reason(_Code):
    """Why a tensor has its fate."""

    SAME = "same", "same name and shape"
    SAME_PLACE = "same_place", "same place, name and shape"
    ROWS = "rows", "{what:and} of matched classes"
    SCORES = "scores", "rows of matched classes, background kept"
    COLUMNS = "columns", "all but the columns that read coarse masks of classes"
    SETTINGS = "settings", "the configuration sets it"
    CLASS_NAMES = (
        "class_names",
        "depends on the class names; KEEP all_but_predictors starts it anew",
    )
    NOT_ASKED = "not_asked", "KEEP {keep:keep} does not ask for it"
    NO_WEIGHTS = "no_weights", "there are no source weights"
    NO_PART = "no_part", "the source has no {part}"
    NO_TENSOR = "no_tensor", "the source has no such tensor"
    NO_STATISTICS = (
        "no_statistics",
        "the source's norms carry no statistics; identity is right for fused ones",
    )
    COSINE = (
        "cosine",
        "the {side} scores by cosine (COSINE_SCALE), which has no bias: what is kept scores "
        "differently until it is trained",
    )
    NORMS = "norms", "norms differ: {there} in the source, {here} in the target"
    FUSED = "fused", "norms differ: fused into an affine layer in the source, BatchNorm here"
    SHAPES = "shapes", "shapes differ: {there} in the source, {here} in the target"
    KEYPOINTS = "keypoints", "other keypoints: {there} in the source, {here} in the target"
    AMBIGUOUS = "ambiguous", "its name is the end of several target names"
    NO_PLACE = "no_place", "the target has no such tensor"


class How(_Code):
    """How a target class got its rows."""

    EQUAL = "equal", "own rows, equal name"
    FOLDED = "folded", "rows of {source!r}, equal but for case, space, underscore or plural"
    MAPPED = "mapped", "rows of {source!r}, class map"
    MERGED = "merged", "mean of the rows of {averaged:names}, class map"
    PARENT = "parent", "rows of {source!r}, parent class"
    MEAN = "mean", "mean of all source rows"
    NEW = "new", "new class, as detectron2 initialises it"


class Code(_Code):
    """What can be wrong with a transfer, and, at the end, what is worth a note."""

    NO_WEIGHTS = (
        "no_weights",
        "MODEL.WEIGHTS is empty: there is nothing to keep, and KEEP is {keep:keep}.",
        "Name a weight file, or say MODEL.TRANSFER.KEEP random_init to train from nothing.",
    )
    NO_MATCH = (
        "no_match",
        "No tensor of {path} matches the model: the file has {there:list}; the model has "
        "{here:list}.",
        "Check that MODEL.WEIGHTS is a detector or ResNet backbone and that the config builds the "
        "same kind of model.",
    )
    NOTHING_KEPT = (
        "nothing_kept",
        "KEEP {keep:keep} keeps no tensor of {path}.",
        "Choose another preset, or weights that have these parts.",
    )
    UNKNOWN_KEEP = (
        "unknown_keep",
        "KEEP {prefix!r} is no module of the model.",
        f"{{near:near}}The presets are {_PRESETS}; anything else is a module prefix like "
        "backbone.bottom_up.",
    )
    EMPTY_KEEP = "empty_keep", "KEEP is empty.", f"Use one of {_PRESETS}."
    BACKBONE_DIFFERS = (
        "backbone_differs",
        "The source's backbone is another one: {differences:list}.",
        "Build the source's backbone with {keys:list}, or take weights made for this one.",
    )
    PART_INITIALISED = (
        "part_initialised",
        "KEEP {keep:keep} asks for {part}, but all of its {count} tensors stay initialised: the "
        "source differs there (first: {first}).",
        "Build this part as the source has it, or choose a KEEP without it.",
    )
    PART_ABSENT = (
        "part_absent",
        "KEEP {keep:keep} asks for {part}, but all of its {count} tensors stay initialised: the "
        "source has none of it (first: {first}).",
        "Build this part as the source has it, or choose a KEEP without it.",
    )
    SHAPE_MISMATCH = (
        "shape_mismatch",
        "{count} tensors that KEEP asks for do not fit: {listed}.",
        "Give the config the source's channels and anchors, or a KEEP without this part.",
    )
    NORMS_DIFFER = (
        "norms_differ",
        "In {groups:list} the {reason}: scale and shift mean something else there.",
        "Set MODEL.RESNETS.NORM (MODEL.FPN.NORM, ROI_*_HEAD.NORM) to the source's kind, or take "
        "weights trained with the target's.",
    )
    CLASS_NAMES = (
        "class_names",
        "KEEP {keep:keep} would copy {first} and {more} more class predictors by position, but the "
        "class names of the source are {old:names}, those of the target {new:names}.",
        "Use KEEP class_rows, which copies rows by name, or all_but_predictors.",
    )
    NO_PREDICTORS = (
        "no_predictors",
        "KEEP class_rows, but the source has no class predictors (it is a backbone or empty).",
        "Use KEEP all_but_predictors.",
    )
    UNKNOWN_SOURCE_CLASSES = (
        "unknown_source_classes",
        "KEEP class_rows needs the class names of {path}, and the file does not carry them.",
        "Set MODEL.TRANSFER.SOURCE_CLASSES to its names in order, or to a registered dataset's "
        'name (["coco_2017_val"] for COCO).',
    )
    UNKNOWN_TARGET_CLASSES = (
        "unknown_target_classes",
        "KEEP class_rows needs the target's class names, and its dataset has none.",
        "Register the training dataset with thing_classes.",
    )
    CLASS_COUNT = (
        "class_count",
        "The {side} has {count} class names ({names:few}) for {rows} classes in its classifier.",
        "Correct {key}.",
    )
    ROWS_APART = (
        "rows_apart",
        "The rows of {listed} cannot move with the classifier's: {reason}.",
        "Set CLS_AGNOSTIC_BBOX_REG and CLS_AGNOSTIC_MASK as the source has them, and the same "
        "channels.",
    )
    UNUSED = (
        "unused",
        "{key} only counts with KEEP class_rows; KEEP is {keep:keep}.",
        "Set MODEL.TRANSFER.KEEP class_rows, or remove it.",
    )
    INPUT_DIFFERS = (
        "input_differs",
        "The source's backbone was trained for other input or strides: the model has {has}.",
        "Set {needs}.",
    )
    NOT_FINITE = (
        "not_finite",
        "{count} tensors of the source hold NaN or Inf: {names:list}.",
        "Training that wrote them diverged; take an earlier checkpoint.",
    )
    FROZEN_RANDOM = (
        "frozen_random",
        "{count:,} random parameters are about to be frozen ({groups:list}), and {norms} FrozenBN "
        "layers have no statistics and never learn any: training cannot mend them, and the loss "
        "may overflow at once.",
        "Keep a pretrained backbone, or train it too: MODEL.BACKBONE.FREEZE_AT 0, "
        "MODEL.RESNETS.NORM GN and MODEL.PIXEL_STD [57.375, 57.12, 58.395].",
    )
    NO_PAIR = (
        "no_pair",
        "{key} holds {pair!r}, not a pair of names.",
        'Write pairs, in CLASS_MAP of source and target class: [["person", "pedestrian"]], in '
        'NEW_CLASS_INIT of a new class and its start: [["van", "truck"], ["kite", "mean"]].',
    )
    UNKNOWN_CLASS = (
        "unknown_class",
        "{key} names the {side} class {name!r}, which is none of {names:names}.",
        "{near:near}Use a name of the {side}'s list.",
    )
    STARTED_TWICE = (
        "started_twice",
        "NEW_CLASS_INIT starts {name!r} twice, and differently.",
        "Leave one of the pairs; CLASS_MAP pairs average several source classes.",
    )
    NOT_NEW = (
        "not_new",
        "NEW_CLASS_INIT starts {name!r}, which is not new: the source has {own!r}.",
        "Leave it out, or pair the two classes in CLASS_MAP.",
    )
    NO_CLASS_MATCHES = (
        "no_class_matches",
        "KEEP class_rows, but no target class ({new:names}) has a source class ({old:names}).",
        "Pair them in MODEL.TRANSFER.CLASS_MAP, or use KEEP all_but_predictors.",
    )
    # a note
    WORKS_WITH = "works_with", "weights with {naming} names work with {settings}"


@dataclass(frozen=True)
class Problem:
    """One finding about a transfer: ``code`` and ``data`` for programs, the rest for people."""

    code: Code
    data: Data = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is wrong."""
        return self.code.sentence(self.data)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _Words().vformat(self.code.remedy, (), self.data)

    def to_json(self) -> dict[str, Any]:
        """Code and data, and both sentences."""
        return {**asdict(self), "text": self.text, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".strip()


def listing(problems: tuple[Problem, ...]) -> str:
    """All problems of a plan as the text of one error."""
    lines = [f"{i}. {p.text}\n   -> {p.remedy}" for i, p in enumerate(problems, 1)]
    return (
        "The transfer would not do what the configuration says "
        f"({plural(len(problems), 'problem')}):\n"
        + "\n".join(lines)
        + "\nMODEL.TRANSFER.STRICT False turns these into warnings."
    )
