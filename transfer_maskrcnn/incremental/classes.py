"""The classes of an extended model: those of its source, and novel ones.

A registered dataset stays as it is: what its ``category_id`` means to an extended model is looked
up where its records are used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.errors import ConfigError, WeightFileError, nearest
from transfer_maskrcnn.modeling.build import tasks_of
from transfer_maskrcnn.surgery.classes import extended_classes, find_class, fold, known_classes
from transfer_maskrcnn.surgery.hook import began_with, load_named_source
from transfer_maskrcnn.surgery.load import load_weights, trained_file
from transfer_maskrcnn.text import quoted

#: the place in ``evaluation.json``, beside the sets, of what an extended model knows of its classes
EXTENSION_KEY = "extension"

logger = logging.getLogger(__name__)

CALIBRATION_KEY = "MODEL.TRANSFER.PSEUDO_LABELS.CALIBRATION_SET"


def class_places(cfg: CfgNode, classes: Sequence[str], dataset: str) -> list[int] | None:
    """The model's class number of each of the dataset's, in the order of its ``category_id``.

    None where the model was not extended: then they are the same.

    Args:
        classes: the model's.
        dataset: one that is loaded.

    Raises:
        ConfigError: an extended model lacks one of its classes.
    """
    if not cfg.MODEL.TRANSFER.EXTEND:
        return None
    own = list(MetadataCatalog.get(dataset).thing_classes)
    known = known_classes(own, classes)
    unknown = [name for name in own if name not in known]
    if unknown:
        raise ConfigError(
            f"{dataset_keys(cfg).get(dataset, 'dataset')} {dataset!r} has the class "
            f"{unknown[0]!r}, which the extended model lacks: it has {quoted(classes)}"
            f"{nearest(unknown[0], classes) or '.'} Name another "
            "set, or make the class one of these with `merge` where the set is declared. Only "
            "training on DATASETS.TRAIN adds classes; --eval-only takes them from the model in "
            "OUTPUT_DIR, or else MODEL.WEIGHTS"
        )
    return [classes.index(known[name]) for name in own]


def dataset_keys(cfg: CfgNode) -> dict[str, str]:
    """Each dataset that ``cfg`` names -> the config key that does."""
    return {cfg.MODEL.TRANSFER.PSEUDO_LABELS.CALIBRATION_SET: CALIBRATION_KEY} | {
        name: f"DATASETS.{key}"
        for key in ("TEST_BASE", "TEST", "TRAIN")
        for name in cfg.DATASETS[key]
    }


def in_model_classes(
    cfg: CfgNode, classes: Sequence[str], dataset: str, dicts: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """``dicts`` of ``dataset`` with the model's ``category_id``; those given stay as they are."""
    places = class_places(cfg, classes, dataset)
    if places is None:
        return list(dicts)
    return [
        {
            **record,
            "annotations": [
                {**a, "category_id": places[a["category_id"]]}
                for a in record.get("annotations", ())
            ],
        }
        for record in dicts
    ]


def source_categories(dataset: str, names: Sequence[str]) -> dict[int, int]:
    """Category id of a dataset -> the source's class, by name; other categories are left out."""
    metadata = MetadataCatalog.get(dataset)
    own = list(metadata.thing_classes)
    known = known_classes(own, [name for name in names if name])
    ids: Mapping[int, int] = metadata.get(
        "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(own))}
    )
    return {i: names.index(known[own[k]]) for i, k in ids.items() if own[k] in known}


def annotated_classes(cfg: CfgNode, classes: Sequence[str], *, warn: bool) -> set[int]:
    """The extended model's classes that ``DATASETS.TRAIN`` annotates: those with an instance.

    A crowd is none. An annotation tool may list classes that nobody looked for, too.

    Args:
        classes: the model's.
        warn: name these in a warning.
    """
    declared, found = set[int](), set[int]()
    for name in cfg.DATASETS.TRAIN:
        places = class_places(cfg, classes, name) or ()
        declared |= set(places)
        found |= {
            places[a["category_id"]]
            for r in DatasetCatalog.get(name)
            for a in r.get("annotations", ())
            if not a.get("iscrowd", 0)
        }
    if warn and declared - found:
        logger.warning(
            "DATASETS.TRAIN has no instance of %s; where there are some, they are taken to lack "
            "their annotation",
            quoted([classes[place] for place in sorted(declared - found)]),
        )
    return found


def fit_extended(
    cfg: CfgNode, names: Sequence[str], dataset_classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """The extended model's class names, and its tasks; see ``RunSpec``.

    Args:
        names: the datasets that are used; loaded.
        dataset_classes: those of the training sets; None: they are not looked at, and a model that
            was extended has the classes of its file.

    Raises:
        ConfigError: a dataset has classes that the model lacks; what :func:`extend` raises.
        WeightFileError: the file cannot be read.
    """
    if dataset_classes is None:  # the file says how its classes are scored
        _check_keys(cfg)
        trained = _run_metadata(cfg)
        own = trained.get("thing_classes") if began_with(trained, cfg.MODEL.WEIGHTS) else None
        classes, tasks = list(own or _source(cfg)[0]), list[int]()
    else:
        classes, tasks = extend(cfg, dataset_classes)
    for name in names:
        class_places(cfg, classes, name)
    _check_source_sets(cfg, classes, tasks)
    return classes, tasks


def _check_source_sets(cfg: CfgNode, classes: Sequence[str], tasks: Sequence[int]) -> None:
    """
    Raises:
        ConfigError: one of ``DATASETS.TEST_BASE`` has classes alone that are novel.
    """
    base = sum(tasks[:-1]) if len(tasks) > 1 else sum(tasks)
    for name in cfg.DATASETS.TEST_BASE if base else ():
        if min(class_places(cfg, classes, name) or [0]) >= base:
            raise ConfigError(
                f"DATASETS.TEST_BASE {name!r} has none of the source's classes, only novel ones "
                f"({quoted(MetadataCatalog.get(name).thing_classes)}); name a set of the source's "
                "classes, or leave it empty"
            )


def extend(cfg: CfgNode, dataset_classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The classes of MODEL.WEIGHTS and the novel ones of a dataset, and the tasks they came with.

    Raises:
        ConfigError: keys that contradict ``MODEL.TRANSFER.EXTEND``, class names of the source that
            nobody knows, or two classes of the dataset that are one of the source's.
        WeightFileError: MODEL.WEIGHTS cannot be read.
    """
    _check_keys(cfg)
    source, tasks = _source(cfg)
    names = extended_classes(source, dataset_classes)
    _check_class_map(cfg, source)
    kept = names[: len(names) - len(set(names) - set(source))]
    known = known_classes(dataset_classes, kept)
    renamed = {k: v for k, v in known.items() if k != v and fold(k) == fold(v)}
    logger.info(
        "MODEL.TRANSFER.EXTEND: %d classes of %s, and novel: %s%s",
        *(len(kept), cfg.MODEL.WEIGHTS, quoted(names[len(kept) :]) or "none"),
        "".join(f"; {own!r} is its {base!r}" for own, base in renamed.items()),
    )
    for own, base in known.items():
        if fold(own) != fold(base):
            logger.warning(
                "MODEL.TRANSFER.EXTEND: the dataset's class %r is taken for %r of %s, as singular "
                "and plural of one word; if these are two classes, give it another name with "
                "`merge` where the dataset is declared",
                *(own, base, cfg.MODEL.WEIGHTS),
            )
    if unnamed := sum(not name for name in source):
        logger.info(
            "MODEL.TRANSFER.EXTEND: %d rows of %s have no class, and are left out",
            *(unnamed, cfg.MODEL.WEIGHTS),
        )
    added = [len(names) - len(kept)] if len(names) > len(kept) else []
    # the source may have been extended itself
    return list(names), [*(tasks if sum(tasks) == len(kept) else [len(kept)]), *added]


def _check_keys(cfg: CfgNode) -> None:
    transfer = cfg.MODEL.TRANSFER
    if transfer.KEEP != "class_rows" or not transfer.ENABLED:
        raise ConfigError(
            f"MODEL.TRANSFER.EXTEND True keeps the source's classes, but KEEP is {transfer.KEEP!r} "
            f"and ENABLED {transfer.ENABLED}; set MODEL.TRANSFER.KEEP class_rows and ENABLED True"
        )


def _check_class_map(cfg: CfgNode, source: Sequence[str]) -> None:
    for pair in cfg.MODEL.TRANSFER.CLASS_MAP:
        own = find_class(pair[1], source) if len(pair) == 2 else None
        if own is not None:
            raise ConfigError(
                f"MODEL.TRANSFER.CLASS_MAP gives {pair[1]!r} the rows of {pair[0]!r}, but EXTEND "
                f"keeps the source's own {own!r}; leave the pair out, or EXTEND False"
            )


def _source(cfg: CfgNode) -> tuple[tuple[str, ...], list[int]]:
    """The classes of MODEL.WEIGHTS, and the tasks they came with; where that file is gone, those of
    the run's own model, which has them all."""
    try:
        source = load_named_source(cfg)
        return source.classes or (), tasks_of(source.metadata)
    except WeightFileError:
        metadata = _run_metadata(cfg)
        if not metadata.get("thing_classes"):
            raise
        return tuple(metadata["thing_classes"]), tasks_of(metadata)


def _run_metadata(cfg: CfgNode) -> Mapping[str, Any]:
    """Of the model in OUTPUT_DIR; {} where there is none."""
    trained = trained_file(cfg.OUTPUT_DIR)
    if trained is None or not trained.is_file():
        return {}
    return load_weights(trained, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE).metadata or {}
