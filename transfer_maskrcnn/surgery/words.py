"""Reasons and problems as codes with data, each beside its sentence.

Logic asks for codes. Sentences are made here and nowhere else in this room, for people alone.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, EnumMeta
from types import MappingProxyType
from typing import Any

from transfer_maskrcnn.surgery.parts import PRESETS
from transfer_maskrcnn.text import plural, quoted

Data = Mapping[str, Any]
Sentence = str | Callable[[Data], str]


class _Words(string.Formatter):
    """``{x:names}``: 'a', 'b'; ``{x:list}``: a, b; ``{x:keep}``: as in a config; ``{x:near}``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "names":
            return quoted(value)
        if format_spec == "few":
            return quoted(value, 4)
        if format_spec == "list":
            return ", ".join(value)
        if format_spec == "keep":
            return value if isinstance(value, str) else ",".join(value)
        if format_spec == "near":
            return f"Did you mean {value!r}? " if value else ""
        return str(super().format_field(value, format_spec))


def _said(sentence: Sentence, data: Data) -> str:
    return _Words().vformat(sentence, (), data) if isinstance(sentence, str) else sentence(data)


class _Code(str, Enum):
    """A code whose members carry their sentences: what is so, and what to do about it."""

    text: Sentence
    remedy: Sentence

    def __new__(cls, code: str, text: Sentence, remedy: Sentence = "") -> _Code:
        member = str.__new__(cls, code)
        member._value_, member.text, member.remedy = code, text, remedy
        return member

    @classmethod
    def of(cls, code: str) -> Any:
        """The member of a code that was written. Raises ValueError for any other."""
        return EnumMeta.__call__(cls, code)

    def sentence(self, data: Data = MappingProxyType({})) -> str:
        return _said(self.text, data)


def _rows(data: Data) -> str:
    kinds = ["input columns" if axis else "rows" for axis in data["axes"]]
    kept = ", background kept" if data["background"] else ""
    return f"{' and '.join(kinds)} of matched classes{kept}"


class Reason(_Code):
    """Why a tensor has its fate."""

    SAME = "same", "same name and shape"
    SAME_PLACE = "same_place", "same place, name and shape"
    ROWS = "rows", _rows
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
    NO_COUNTER = "no_counter", "a frozen norm counts no batches"
    NO_PLACE = "no_place", "the target has no such tensor"


class How(_Code):
    """How a target class got its rows."""

    EQUAL = "equal", "equal name"
    FOLDED = "folded", "equal but for case, space, underscore or plural"
    MAPPED = "mapped", "class map"
    MERGED = "merged", "class map of several"
    PARENT = "parent", "parent class"
    MEAN = "mean", "mean of all source rows"
    NEW = "new", "new class, as detectron2 initialises it"


def _backbones(data: Data) -> str:
    found = (f"{what} ({a} in the source, {b} in the target)" for what, a, b in data["differences"])
    return f"The source's backbone is another one: {'; '.join(found)}."


def _backbone_remedy(data: Data) -> str:
    keys = " ".join(data["keys"])
    asked = f"Build the source's backbone with {keys}" if keys else "Build the same one"
    return f"{asked}, or take weights made for this one."


def _class_names(data: Data) -> str:
    old, new = data["old"], data["new"]
    if old is None or new is None:
        what = f"the class names of the {'source' if old is None else 'target'} are unknown"
    else:
        what = f"the source's classes are {quoted(old)}, the target's {quoted(new)}"
    copied = f"{data['first']} and {data['more']} more class predictors"
    return _said("KEEP {keep:keep}", data) + f" would copy {copied} by position, but {what}."


def _unused(data: Data) -> str:
    verb = "only counts" if len(data["keys"]) == 1 else "only count"
    keys = " and ".join(data["keys"])
    return f"{keys} {verb} with KEEP class_rows; KEEP is " + _said("{keep:keep}.", data)


def _frozen(data: Data) -> str:
    parts = []
    if data["groups"]:
        groups = ", ".join(data["groups"])
        parts.append(f"{data['count']:,} random parameters are about to be frozen ({groups})")
    if data["norms"]:
        parts.append(f"{data['norms']} FrozenBN layers have no statistics and never learn any")
    what = " and ".join(parts)
    return f"{what}: training cannot mend them, and the loss may overflow at once."


def _count_remedy(data: Data) -> str:
    if data["side"] == "source":
        return "Correct MODEL.TRANSFER.SOURCE_CLASSES."
    return "Correct MODEL.ROI_HEADS.NUM_CLASSES or the dataset's thing_classes."


def _known(data: Data) -> str:
    return _said("{near:near}", data).strip() or f"Use a name of the {data['side']}'s list."


_PRESETS = ", ".join(PRESETS)


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
    BACKBONE_DIFFERS = "backbone_differs", _backbones, _backbone_remedy
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
        _class_names,
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
        _count_remedy,
    )
    ROWS_APART = (
        "rows_apart",
        "The rows of {listed} cannot move with the classifier's: {reason}.",
        "Set CLS_AGNOSTIC_BBOX_REG and CLS_AGNOSTIC_MASK as the source has them, and the same "
        "channels.",
    )
    UNUSED = "unused", _unused, "Set MODEL.TRANSFER.KEEP class_rows, or remove them."
    INPUT_DIFFERS = (
        "input_differs",
        "The source's backbone was trained for other input or strides: the model has {has:list}.",
        "Set {needs}.",
    )
    NOT_FINITE = (
        "not_finite",
        "{count} tensors of the source hold NaN or Inf: {names:list}.",
        "Training that wrote them diverged; take an earlier checkpoint.",
    )
    FROZEN_RANDOM = (
        "frozen_random",
        _frozen,
        "Keep a pretrained backbone, or train it too: MODEL.BACKBONE.FREEZE_AT 0, "
        "MODEL.RESNETS.NORM GN and MODEL.PIXEL_STD [57.375, 57.12, 58.395].",
    )
    CLASS_MAP_PAIR = (
        "class_map_pair",
        "CLASS_MAP holds {pair!r}, not a pair of names.",
        'Write pairs of source and target class: [["person", "pedestrian"]].',
    )
    CLASS_INIT_PAIR = (
        "class_init_pair",
        "NEW_CLASS_INIT holds {pair!r}, not a pair of names.",
        'Write pairs of a new class and its start: [["van", "truck"], ["kite", "mean"]].',
    )
    UNKNOWN_CLASS = (
        "unknown_class",
        "{key} names the {side} class {name!r}, which is none of {names:names}.",
        _known,
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
    # notes
    STAYS_INITIALISED = (
        "stays_initialised",
        "{count:,} parameters of the {part} stay initialised: the source has none for them",
    )
    WORKS_WITH = "works_with", "weights with {naming} names work with {settings}"


@dataclass(frozen=True)
class Problem:
    """One finding about a transfer: ``code`` and ``data`` for programs, the rest for people."""

    code: Code
    data: Data = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is wrong."""
        return _said(self.code.text, self.data)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _said(self.code.remedy, self.data)

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
