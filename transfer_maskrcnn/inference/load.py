"""From a run, a weight file or a config to a Model; from image files to predictions on disk."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from transfer_maskrcnn.cli import progress, quiet_third_parties
from transfer_maskrcnn.config import CONFIG_FILE, FOLLOW_DATASET, RunSpec, load_config, run_folder
from transfer_maskrcnn.data.cache import digest_of
from transfer_maskrcnn.data.registry import catalog_files, register_catalogs
from transfer_maskrcnn.engine.checkpoint import load_trained_model
from transfer_maskrcnn.engine.hooks.record import INITIAL_FILE
from transfer_maskrcnn.engine.manifest import check_device
from transfer_maskrcnn.errors import ConfigError, DatasetError, refuse
from transfer_maskrcnn.inference.inputs import Video, frames_of, output_names, read_bgr
from transfer_maskrcnn.inference.model import Model, class_thresholds, results_of
from transfer_maskrcnn.inference.outputs import Journal, open_outputs
from transfer_maskrcnn.inference.results import Picture
from transfer_maskrcnn.modeling.build import build_model
from transfer_maskrcnn.modeling.precision import autocast_dtype
from transfer_maskrcnn.surgery.hook import source_class_names
from transfer_maskrcnn.surgery.known import KNOWN
from transfer_maskrcnn.surgery.load import (
    FINAL_FILE,
    load_weights,
    local_file,
    trained_file,
    weights_digest,
)
from transfer_maskrcnn.text import few, plural

logger = logging.getLogger(__name__)

# what models are exported as, for other programs to run
_EXPORTED = (".onnx", ".torchscript", ".ts", ".pt2", ".engine", ".mlpackage", ".tflite")


def load_model(
    source: str | os.PathLike[str],
    *,
    device: str | int | None = None,
    score: float = 0.5,
    class_scores: Mapping[str, float] | None = None,
    batch: int = 1,
    trust_pickle: bool = False,
) -> Model:
    """A trained model, ready for images::

        model = load_model("output/mine")
        result = model("photo.jpg")

    Neither the run's dataset nor its config needs to be there: a weight file of this project
    carries both classes and config, wherever it is copied to.

    Args:
        source: the OUTPUT_DIR of a run (its last model: the exported one, else its last
            checkpoint), or a weight file of one (``model_final.safetensors``, ``model_best.pth``);
            a file that says nothing of itself needs the run's config.yaml beside it.
        device: ``cpu``, ``cuda``, ``cuda:1`` or 1; None: CUDA where there is some.
        score: detections of at most this score are left out, 0 to 1.
        class_scores: class name -> its own ``score``.
        batch: how many images are read before the model sees them; those of one size go through it
            together. More is faster on a GPU, and takes that much more memory.
        trust_pickle: unpickle whatever the file says. This runs code from it.

    Raises:
        ConfigError: no trained model, an exported one, an unknown class in ``class_scores``, a
            ``batch`` below 1, or a device that is not there.
        WeightFileError: the file is missing or cannot be read.
    """
    quiet_third_parties()
    address, takes = os.fspath(source), "load_model takes the OUTPUT_DIR of a run, or a weight file"
    refuse(
        (
            address.endswith(_EXPORTED),
            f"{address} is an exported model, which other programs run; {takes} of it "
            "(.safetensors, .pth)",
        ),
        (
            os.path.isfile(address) and address.endswith((".yaml", ".yml")),
            f"{address} is a config; {takes} of it: {Path(address).parent}",
        ),
        (
            Path(address).name == INITIAL_FILE,
            f"{address} is what a run began with, before any training; {takes} of what it trained",
        ),
        (
            address in KNOWN and not os.path.exists(address),
            f"{address} is to start from, and knows nothing of your classes; "
            f"finetune(data, weights={address!r}) trains it, and {takes} of it",
        ),
    )
    place = load_config("").MODEL.DEVICE if device is None else device
    opts = [
        "MODEL.DEVICE",
        f"cuda:{place}" if type(place) is int else str(place),
        "MODEL.TRANSFER.TRUST_PICKLE",
        trust_pickle,
    ]
    cfg = config_of(address, opts)
    if os.path.isdir(address):
        address = find_weights(cfg, os.path.join(address, CONFIG_FILE))
    return build_trained(cfg, address, score=score, class_scores=class_scores, batch=batch)


def config_of(weights: str, opts: Sequence[Any] = ()) -> CfgNode:
    """The config that a trained file carries, or that lies beside it as config.yaml.

    Args:
        weights: an address of :func:`load_weights`.
        opts: KEY VALUE pairs that win over it.

    Raises:
        ConfigError: there is none.
        WeightFileError: the file cannot be read.
    """
    if not weights:
        raise ConfigError("name a model: a run's folder or its file, as output/mine")
    trust = load_config("", opts).MODEL.TRANSFER.TRUST_PICKLE
    carried = (load_weights(weights, trust_pickle=trust).metadata or {}).get("config")
    if carried:
        # the classes are known, and nothing of the datasets needs to be here
        pairs = (pair for pair in carried.items() if not str(pair[0]).startswith("DATASETS."))
        return load_config("", [*(item for pair in pairs for item in pair), *opts])
    beside = local_file(weights).with_name(CONFIG_FILE)
    if not beside.is_file():
        raise ConfigError(
            f"{weights} does not say what model its weights are of, and no {CONFIG_FILE} lies "
            f"beside it; copy the {CONFIG_FILE} of its run there"
        )
    return load_config(str(beside), opts)


def find_weights(cfg: CfgNode, config_file: str = "") -> str:
    """The model that a config stands for: what its run has trained, else ``MODEL.WEIGHTS``.

    Args:
        config_file: where ``cfg`` is from. That of a run, ``OUTPUT_DIR/config.yaml``, finds the
            model beside it, also after the folder was moved.

    Raises:
        ConfigError: there is neither.
    """
    folders = filter(None, (run_folder(config_file), cfg.OUTPUT_DIR))
    found = next(filter(None, map(trained_file, folders)), None)
    if found is None and not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"there is no model to predict with: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no trained one, "
            "and MODEL.WEIGHTS is empty; train first, or name a trained file with --weights"
        )
    if found is not None and cfg.SOLVER.EMA_DECAY and found.name != FINAL_FILE:
        logger.warning(
            "%s is of an unfinished run: its last weights predict, not their average", found
        )
    return str(found or cfg.MODEL.WEIGHTS)


def build_trained(
    cfg: CfgNode,
    weights: str,
    *,
    score: float = 0.5,
    class_scores: Mapping[str, float] | None = None,
    batch: int = 1,
) -> Model:
    """Build the model of ``cfg`` as an evaluation does, and load its trained weights.

    The class names are those in the file; no dataset needs to be on disk. For a file without, they
    are ``MODEL.TRANSFER.SOURCE_CLASSES``, or those that the config's datasets are declared with.

    Args:
        cfg: as loaded, or of a run; stays as it is.
        weights: of a trained model; a path, or an address that detectron2 knows.
        score: detections of at most this score are left out, 0 to 1.
        class_scores: class name -> its own threshold.
        batch: how many images are read before the model sees them.

    Raises:
        ConfigError: class names that nobody knows or that do not fit, a file that is not a trained
            model for this config, an unknown class in ``class_scores``.
        WeightFileError: the file cannot be read.
    """
    check_device(cfg.MODEL.DEVICE)
    classes = _class_names(cfg, weights)
    thresholds = class_thresholds(classes, score, class_scores or {})
    cfg = RunSpec(tuple(classes)).resolve(cfg)
    cfg.defrost()
    # What will be left out needs no mask, and what is wanted must not be left out by the model.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min(thresholds)
    model = build_model(cfg)
    load_trained_model(model, weights, classes, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE)
    return Model(
        model,
        classes,
        shortest_side=cfg.INPUT.MIN_SIZE_TEST,
        longest_side=cfg.INPUT.MAX_SIZE_TEST,
        channels=cfg.INPUT.FORMAT,
        precision=autocast_dtype(cfg),
        thresholds=thresholds,
        batch=batch,
    )


def _class_names(cfg: CfgNode, weights: str) -> list[str]:
    source = load_weights(weights, trust_pickle=cfg.MODEL.TRANSFER.TRUST_PICKLE)
    own = (source.metadata or {}).get("thing_classes")
    named = source_class_names(cfg.MODEL.TRANSFER.SOURCE_CLASSES) or source.classes
    declared = _declared_classes(cfg)
    candidates = [own] if own else [names for names in (named, declared) if names]
    if not candidates:
        raise ConfigError(
            f"{weights} carries no class names, and no dataset of the config is declared with its "
            "own; name them in order: MODEL.TRANSFER.SOURCE_CLASSES \"['cat', 'dog']\", or a "
            "dataset that has them, as \"['coco_2017_val']\""
        )
    stated = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    # A run's config names the classes of the weights that it started from, too.
    fitting = next((names for names in candidates if len(names) == stated), candidates[0])
    if stated not in (FOLLOW_DATASET, len(fitting)):
        raise ConfigError(
            f"{weights} has {len(fitting)} classes ({few(fitting, 8)}), but the config's "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {stated}; use the config that it was trained with"
        )
    return list((own and declared) or fitting)  # where both are there, loading compares them


def _declared_classes(cfg: CfgNode) -> list[str]:
    """The class names that stand in a catalog; annotations are not read for them.

    A catalog has only some of an extended model's.
    """
    if cfg.MODEL.TRANSFER.EXTEND:
        return []
    files = catalog_files(cfg.DATASETS.CATALOG)
    register_catalogs([f for f in files if os.path.isfile(f)])  # a model may outlive its dataset
    named = (
        MetadataCatalog.get(name).get("thing_classes")
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    )
    return list(next(filter(None, named), []))


@dataclass
class Found:
    """What a run has done so far.

    Attributes:
        pictures: how many images or frames went through the model.
        instances: class name -> how many of it were found.
        failed: how many images could not be read.
    """

    pictures: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def summary(self, unit: str) -> str:
        """ "2 images, 5 instances (cat 3, dog 2)", and how many were left out.

        Args:
            unit: "image" or "frame".
        """
        shown = [f"{name} {times}" for name, times in self.instances.most_common()]
        counts = f" ({few(shown, 8)})" if shown else ""
        found = plural(self.instances.total(), "instance") + counts
        lost = f"\n{plural(self.failed, unit)} could not be read and left out"
        return f"{plural(self.pictures, unit)}, {found}{lost * bool(self.failed)}"


def predict(
    model: Model,
    source: Sequence[Path] | Video,
    folder: Path,
    *,
    kinds: Collection[str],
    command: str,
    batch: int = 1,
    report: Callable[[str], None],
) -> Found:
    """Predict on image files, or on each frame of a video.

    What the same command did before it was cut off is not done again, but for a video.

    An image that cannot be read is reported, and the others go on. The overlay of a video is one,
    and its images in ``images.json`` are its frames.

    Args:
        folder: what is written goes there.
        kinds: of OVERLAY, JSON, MASKS, LABELME and LABELME_MASKS, those wanted.
        command: a digest of all that a result depends on; see :func:`command_of`.
        batch: how many images are read before the model sees them.
        report: gets a line for each image that cannot be read.
    """
    found = Found()
    video = source if isinstance(source, Video) else None
    journal = Journal(folder, command, again=video is not None)
    for indices in journal.done.values():
        found.pictures += 1
        found.instances.update(model.names[index] for index in indices)
    if isinstance(source, Video):
        pictures = frames_of(source.path, progress(source, "frames", source.frames or None))
    else:
        pictures = _images(source, journal.done, found, report)
    with open_outputs(folder, model.names, kinds, journal, video) as writes:
        for result in results_of(model, pictures, batch):
            for write in writes:
                write(result)
            found.pictures += 1
            found.instances.update(result.names)
    return found


def command_of(
    cfg: CfgNode,
    weights: str,
    scores: tuple[float, Mapping[str, float]],
    kinds: Collection[str],
    paths: Sequence[Path],
) -> str:
    """A digest of what was asked for: two commands with the same give the same files."""
    texts = [str(path.absolute()) for path in paths]
    return digest_of([cfg.dump(), weights_digest(weights), scores, sorted(kinds), texts])


def _images(
    paths: Sequence[Path],
    done: Collection[str],
    found: Found,
    report: Callable[[str], None],
) -> Iterator[Picture]:
    named = zip(paths, output_names(paths), strict=True)
    for path, name in progress(named, "images", len(paths)):
        if name in done:
            continue
        try:
            yield Picture(read_bgr(path), path, name)
        except DatasetError as error:
            found.failed += 1
            report(str(error))
