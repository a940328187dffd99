"""The shapes detector labels what it knows on pictures in which only the new shapes are."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from transfer_maskrcnn.commands.pseudo_label import main
from transfer_maskrcnn.config import load_config
from transfer_maskrcnn.data.cache import Cache
from transfer_maskrcnn.data.registry import register_dataset
from transfer_maskrcnn.data.shapes import NOVEL_CLASSES, SOURCE_CLASSES, ShapesSplit, write_split
from transfer_maskrcnn.engine.setup import fit_config
from transfer_maskrcnn.engine.trainer import TransferTrainer, train_loader, training_dicts
from transfer_maskrcnn.errors import ConfigError, WeightFileError
from transfer_maskrcnn.incremental import source
from transfer_maskrcnn.incremental.pseudo_labels import describe
from transfer_maskrcnn.incremental.source import note_source
from transfer_maskrcnn.modeling.rcnn import IGNORED_CLASS

KEY = "MODEL.TRANSFER.PSEUDO_LABELS"
IMAGES = 6
TRAIN, CALIBRATION = "stars_and_hearts", "calibration_of_source"
TINY: list[Any] = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "SEED", 0, "DATASETS.TEST", ()),
    *("MODEL.TRANSFER.KEEP", "class_rows", "MODEL.TRANSFER.EXTEND", True),
    *(f"{KEY}.ENABLED", True, f"{KEY}.SCORE", 0.4, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 1),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 1e-4),
]


def dicts_of(cfg: CfgNode) -> list[dict[str, Any]]:
    """The images that a run of ``cfg`` trains on."""
    return training_dicts(cfg, fit_config(cfg))[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sets that TRAIN and CALIBRATION name."""
    folder = tmp_path_factory.mktemp("pseudo_labels")
    for name, split in (
        (TRAIN, ShapesSplit("new", NOVEL_CLASSES, IMAGES, 5, unannotated=SOURCE_CLASSES)),
        (CALIBRATION, ShapesSplit("calibration", SOURCE_CLASSES, 40, 6)),
    ):
        write_split(split, folder / split.folder)
        register(name, folder / split.folder / "annotations.json")
    return folder


def register(name: str, annotations: Path, images: Path | None = None, **more: Any) -> None:
    root = (images or annotations.parent) / "images"
    register_dataset(name, format="coco", annotations=annotations, image_root=root, **more)


@pytest.fixture(autouse=True)
def shared_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the source finds on an image is computed once for all tests but those of the cache."""
    monkeypatch.setenv("TRANSFER_CACHE", str(folder / "cache"))


@pytest.fixture
def cache(shared_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "detections"


@pytest.fixture
def make(folder: Path, repository: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """make(*opts) -> the fitted config of two iterations on six pictures of stars and hearts."""

    def config(*opts: Any) -> CfgNode:
        weights = str(repository / "configs/shapes/shapes_source.pth")
        places = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "output")]
        base = str(repository / "configs/shapes/Base-shapes.yaml")
        cfg = load_config(base, [*TINY, *places, "DATASETS.TRAIN", (TRAIN,), *opts])
        return fit_config(cfg).resolve(cfg)

    return config


@pytest.fixture
def labelled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The digests of images that a teacher has labelled."""
    digests: list[str] = []
    compute = source._compute

    def counting(*given: Any) -> Any:
        found = compute(*given)
        digests.extend(found)
        return found

    monkeypatch.setattr(source, "_compute", counting)
    return digests


def without_pseudo(dicts: list[dict[str, Any]]) -> list[Any]:
    return [[a for a in record["annotations"] if "score" not in a] for record in dicts]


@pytest.mark.slow
def test_training(
    make: Callable[..., CfgNode],
    train: Callable[..., Any],
    labelled: list[str],
    tmp_path: Path,
) -> None:
    cfg = make("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    dicts = dicts_of(cfg)
    assert len(labelled) == len(set(labelled)) == IMAGES
    plain = make("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, f"{KEY}.ENABLED", False)
    assert without_pseudo(dicts) == without_pseudo(dicts_of(plain))

    added = [a for record in dicts for a in record["annotations"] if "score" in a]
    sure = [a for a in added if a["category_id"] != IGNORED_CLASS]
    assert sure and len(added) > len(sure)
    assert all(a["score"] >= 0.4 and a["category_id"] < len(SOURCE_CLASSES) for a in sure)
    assert all(0.1 <= a["score"] < 0.4 for a in added if a["category_id"] == IGNORED_CLASS)
    summary = json.loads((tmp_path / "output/pseudo_labels.json").read_text())
    assert sum(c["objects"] for c in summary["classes"].values()) == len(sure)
    assert summary["doubtful"] == len(added) - len(sure)

    run = train(cfg)
    assert len(labelled) == IMAGES, "the second time, they are looked up"
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in run.losses)
    batches = [i["instances"].gt_classes for b in _first(run.trainer, 4) for i in b]
    assert IGNORED_CLASS in torch.cat(batches) and set(range(8)) & set(torch.cat(batches).tolist())


def _first(trainer: TransferTrainer, count: int) -> Iterator[Any]:
    batches = iter(trainer.data_loader)
    return (next(batches) for _ in range(count))


def test_labels_are_reproducible_and_kept_by_what_they_depend_on(
    make: Callable[..., CfgNode],
    labelled: list[str],
    cache: Path,
) -> None:
    first = dicts_of(make())
    count = len(labelled)
    (folder,) = cache.iterdir()
    kept = _values(folder)
    assert len(kept) == count
    assert dicts_of(make(f"{KEY}.SCORE", 0.9)) != first
    assert len(labelled) == count, "thresholds need no new labels"
    dicts_of(make("INPUT.MIN_SIZE_TEST", 96))
    assert len(labelled) == 2 * count, "another input size does"
    gone, damaged, *_ = folder.iterdir()
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert dicts_of(make()) == first
    assert len(labelled) == 2 * count + 2, "what is lost is computed again"
    assert _values(folder) == kept, "to the last digit"


def _values(folder: Path) -> dict[str, Any]:
    entries = [(path.stem, Cache(folder).get(path.stem)) for path in folder.iterdir()]
    return {key: entry.value for key, entry in entries if entry is not None}


def test_without_cache_they_are_in_the_run(
    make: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", "")
    dicts_of(make())
    assert list((tmp_path / "output/detections").iterdir()) and not cache.exists()


@pytest.mark.slow
def test_thresholds_of_a_calibration_set(make: Callable[..., CfgNode], tmp_path: Path) -> None:
    strict, loose = (
        _scores(make(f"{KEY}.CALIBRATION_SET", CALIBRATION, f"{KEY}.TARGET_PRECISION", p), tmp_path)
        for p in (0.95, 0.3)
    )
    assert strict.keys() == loose.keys() == set(SOURCE_CLASSES)
    assert all((a or 2) >= (b or 2) for a, b in zip(strict.values(), loose.values(), strict=True))
    assert strict != loose and len(set(loose.values())) > 3, "each class has its own"


def _scores(cfg: CfgNode, tmp_path: Path) -> dict[str, Any]:
    dicts_of(cfg)
    summary = json.loads((tmp_path / "output/pseudo_labels.json").read_text())
    return {name: c["score"] for name, c in summary["classes"].items()}


def test_classes_that_no_score_is_precise_enough_for_are_named(
    make: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        scores = _scores(
            make(f"{KEY}.CALIBRATION_SET", CALIBRATION, f"{KEY}.TARGET_PRECISION", 0.95), tmp_path
        )
    never = ", ".join(name for name, score in scores.items() if score is None)
    words = f"No score of CALIBRATION_SET {CALIBRATION} is precise enough (0.95) for {never}: "
    assert never and words in caplog.text


# classes without a score, how the sentence ends
NEVER = [
    (0, "doubtful ones"),
    (1, "for c0: it is not labelled"),
    (8, "c6, c7: they are not labelled"),
    (10, "c6, c7 and 2 more: they are not labelled"),
]


@pytest.mark.parametrize(("number", "words"), NEVER)
def test_of_many_such_classes_some_are_named(number: int, words: str) -> None:
    classes = {f"c{i}": {"score": None, "objects": 0} for i in range(number)}
    classes["sure"] = {"score": 0.5, "objects": 3}
    summary = {"images": 4, "doubtful": 2, "calibration": "h", "precision": 0.8, "score": 0.7}
    summary["classes"] = classes
    assert describe(summary).endswith(words)


def test_classes_of_which_the_calibration_set_says_too_little_are_named() -> None:
    classes = {"dog": {"score": 0.7, "objects": 1}, "cat": {"score": 0.6, "objects": 1}}
    summary = {"images": 4, "doubtful": 2, "calibration": "h", "precision": 0.8, "score": 0.7}
    words = "2 doubtful ones. CALIBRATION_SET h says too little of dog: SCORE 0.7 stands"
    assert describe({**summary, "classes": classes}).endswith(words)
    alone = {**summary, "calibration": None, "classes": classes}
    assert describe(alone, "doubtful.json has").endswith("; doubtful.json has 2 doubtful ones")


def test_a_calibration_set_without_base_classes(
    make: Callable[..., CfgNode], folder: Path, tmp_path: Path
) -> None:
    name = f"another_{tmp_path.name}"
    register(name, folder / "new/annotations.json")
    with pytest.raises(ConfigError, match=rf"CALIBRATION_SET '{name}' has none of the classes of"):
        make(f"{KEY}.CALIBRATION_SET", name)


@pytest.mark.slow
def test_a_calibration_set_may_have_novel_classes(
    make: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """They change nothing, wherever they stand."""
    write_split(ShapesSplit("all", (*NOVEL_CLASSES, *SOURCE_CLASSES), 40, 8), tmp_path / "all")
    content = json.loads((tmp_path / "all/annotations.json").read_text())
    content["categories"] = content["categories"][len(NOVEL_CLASSES) :]
    old = {category["id"] for category in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in old]
    (tmp_path / "all/old.json").write_text(json.dumps(content))
    found = []
    for file in ("annotations", "old"):
        name = f"{file}_{tmp_path.name}"
        register(name, tmp_path / "all" / f"{file}.json")
        found += [
            _scores(make(f"{KEY}.CALIBRATION_SET", name, f"{KEY}.TARGET_PRECISION", 0.3), tmp_path)
        ]
    assert found[0] == found[1] and found[0].keys() == set(SOURCE_CLASSES)
    assert any(found[0].values())


def test_listed_classes_that_nobody_annotated(
    make: Callable[..., CfgNode], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As annotation tools export them: all categories, of which only the new ones are drawn."""
    usual = dicts_of(make())
    content = json.loads((folder / "new/annotations.json").read_text())
    names = [c["name"] for c in content["categories"]]
    content["categories"] += [
        {"id": len(names) + i, "name": name} for i, name in enumerate(SOURCE_CLASSES, start=1)
    ]
    (tmp_path / "listed.json").write_text(json.dumps(content))
    name = f"listed_{tmp_path.name}"
    register(name, tmp_path / "listed.json", folder / "new")
    listed = dicts_of(make("DATASETS.TRAIN", (name,)))
    assert [len(r["annotations"]) for r in listed] == [len(r["annotations"]) for r in usual]
    assert "has no instance of 'circle'" in caplog.text


def test_a_calibration_set_with_a_class_that_the_model_lacks(
    make: Callable[..., CfgNode], folder: Path, tmp_path: Path
) -> None:
    name = f"misspelt_{tmp_path.name}"
    register(name, folder / "calibration/annotations.json", merge={"sqare": ["square"]})
    words = (
        rf"^{KEY}\.CALIBRATION_SET '{name}' has the class 'sqare'.*; did you mean 'square'\? Name "
    )
    with pytest.raises(ConfigError, match=words + "another set, or .* with `merge`"):
        make(f"{KEY}.CALIBRATION_SET", name)


def test_pseudo_labels_do_not_decide_how_often_images_are_drawn(
    make: Callable[..., CfgNode],
) -> None:
    """The rarest would be the likeliest to be wrong."""
    opts = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    opts += ["DATALOADER.REPEAT_THRESHOLD", 1.0]
    plain, labelled = (_loader(make(*opts, f"{KEY}.ENABLED", enabled)) for enabled in (False, True))
    drawn = [list(islice(iter(loader.batch_sampler), 20)) for loader in (plain, labelled)]
    assert drawn[0] == drawn[1]


def _loader(cfg: CfgNode) -> Any:
    return train_loader(cfg, fit_config(cfg))


def test_the_source_is_gone_but_all_is_labelled(
    make: Callable[..., CfgNode], repository: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "source.pth"
    shutil.copy(repository / "configs/shapes/shapes_source.pth", weights)
    cfg = make("MODEL.WEIGHTS", str(weights))
    spec = fit_config(cfg)
    first = training_dicts(cfg, spec)[1]
    note_source(cfg)
    weights.unlink()
    assert training_dicts(cfg, spec)[1] == first
    (tmp_path / "output/run.json").unlink()
    with pytest.raises(WeightFileError, match="has it label the training images"):
        training_dicts(cfg, spec)


def test_a_cache_that_cannot_be_written(
    make: Callable[..., CfgNode], cache: Path, tmp_path: Path
) -> None:
    cache.parent.write_text("a file, not a folder")
    dicts_of(make())
    assert list((tmp_path / "output/detections").iterdir())


MISTAKES = [
    # keys, what the message says
    ([f"{KEY}.SCORE", 0.05], "IGNORE_SCORE 0.1 and SCORE 0.05"),
    ([f"{KEY}.IGNORE_SCORE", 0.01], "expected 0.05 <= IGNORE_SCORE"),
    ([f"{KEY}.SCORE", 1.5], "IGNORE_SCORE <= SCORE <= 1"),
    ([f"{KEY}.TARGET_PRECISION", 80.0], "TARGET_PRECISION is 80; expected a share"),
    ([f"{KEY}.CALIBRATION_SET", "nowhere"], "no dataset is registered as 'nowhere'"),
    (["MODEL.TRANSFER.EXTEND", False], "set MODEL.TRANSFER.EXTEND True"),
]


@pytest.mark.parametrize(("opts", "message"), MISTAKES)
def test_mistakes(make: Callable[..., CfgNode], opts: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(*opts)


def test_a_calibration_set_that_is_tested_on(make: Callable[..., CfgNode]) -> None:
    with pytest.raises(ConfigError, match=r"is in DATASETS.TEST, too"):
        make(f"{KEY}.CALIBRATION_SET", CALIBRATION, "DATASETS.TEST", (CALIBRATION,))


@pytest.mark.slow
def test_the_tool_goes_on_after_a_kill(
    repository: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while it labels; the same command labels the rest, and writes the same files."""
    name = f"many_{tmp_path.name}"
    split = ShapesSplit("many", NOVEL_CLASSES, 40, 7, unannotated=SOURCE_CLASSES)
    write_split(split, tmp_path / name)
    entry = f"{{format: coco, annotations: {name}/annotations.json, image_root: {name}/images}}"
    (tmp_path / "catalog.yaml").write_text(f"{name}: {entry}\n")
    config = str(repository / "configs/shapes/Base-shapes.yaml")
    opts = [*TINY, "MODEL.WEIGHTS", repository / "configs/shapes/shapes_source.pth"]
    opts += ["DATASETS.CATALOG", tmp_path / "catalog.yaml", "DATASETS.TRAIN", f"('{name}',)"]
    opts += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "OUTPUT_DIR", tmp_path / "output"]

    def arguments(out: str) -> list[str]:
        output = str(tmp_path / out)
        return ["--config-file", config, "--output", output, *map(str, opts)]

    with pytest.raises(ConfigError, match="is registered already"):
        main(arguments(name))
    tool = [sys.executable, str(repository / "tools/pseudo_label.py"), *arguments("killed")]
    with subprocess.Popen(tool, cwd=repository) as process:
        while len(list(cache.glob("*/*.safetensors"))) < 5:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    kept = {file: file.stat().st_ino for file in cache.glob("*/*.safetensors")}
    assert len(kept) < 40, "in the middle"
    main(arguments("killed"))
    files = list(cache.glob("*/*.safetensors"))
    assert len(files) == 40
    assert all(file.stat().st_ino == number for file, number in kept.items()), "no image twice"
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "other"))
    main(arguments("undisturbed"))

    def written(out: str, name: str) -> Any:
        return json.loads((tmp_path / out / name).read_text())

    for file in ("annotations.json", "doubtful.json"):
        assert written("undisturbed", file) == written("killed", file)
        assert written("killed", file)["annotations"]
    numbers = [
        annotation["id"]
        for file in ("annotations.json", "doubtful.json")
        for annotation in written("killed", file)["annotations"]
    ]
    assert len(set(numbers)) == len(numbers), "what is moved over keeps its number"
    catalog = (tmp_path / "killed/catalog.yaml").read_text()
    assert str(tmp_path / name / "images") in catalog and "star" in catalog
