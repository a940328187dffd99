"""tools/check_dataset.py: what it prints, writes, mends and converts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.cli import typed
from transfer_maskrcnn.commands.check_dataset import EXPORTED, check_dataset
from transfer_maskrcnn.commands.check_dataset import FORMATS as FORMATS_LISTED
from transfer_maskrcnn.data.export import EXPORTERS
from transfer_maskrcnn.data.formats import FORMATS
from transfer_maskrcnn.data.registry import register_catalog

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit status and what was printed."""

    def tool(*arguments: str | Path) -> tuple[int, str]:
        status = 0
        try:
            check_dataset([*map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
            if isinstance(stopped.code, str):
                return status, stopped.code
        return status, capsys.readouterr().out

    return tool


@pytest.fixture
def catalog(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two sets, one of which has an instance twice and a wrong area."""
    entries = {}
    for part, seed in (("train", 0), ("val", 50)):
        (tmp_path / part).mkdir()
        images, annotations = [], []
        for i in range(12):
            coarse = np.random.default_rng(seed + i).integers(0, 256, (6, 8, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / part / f"{i}.png"), cv2.resize(coarse, (400, 300)))
            images.append({"id": i, "file_name": f"{i}.png", "height": 300, "width": 400})
            x = 20.0 + 10 * i
            ring = [x, 40, x + 120, 60, x + 100, 180, x + 20, 170]
            annotations.append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "segmentation": [ring],
                    "bbox": [x, 40, 120, 140],
                    "area": 12500,
                    "iscrowd": 0,
                }
            )
        if part == "train":
            annotations.append({**annotations[3], "id": 77})
            annotations[5] = {**annotations[5], "area": 3.0}
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "kite"}],
        }
        (tmp_path / f"{part}.json").write_text(json.dumps(content, indent=1))
        name = f"{tmp_path.name}_{part}"
        entries[name] = {"format": "coco", "annotations": f"{part}.json", "image_root": part}
        request.addfinalizer(lambda name=name: _forget(name))
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(entries))
    return path


def _forget(name: str) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_catalog_with_errors(run: Run, catalog: Path, tmp_path: Path) -> None:
    status, shown = run("--catalog", catalog, "--json", tmp_path / "found.json")
    assert status == 1
    assert "ERROR" in shown and "1 instance that is there twice" in shown
    assert "annotations[12], id 77" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    kinds = [f["kind"] for f in found["findings"]]
    assert kinds[0] == "duplicate" and "area_wrong" in kinds
    assert [d["images"] for d in found["datasets"]] == [12, 12]


def test_json_to_a_pipe_is_json_alone(run: Run, catalog: Path) -> None:
    _, shown = run("--catalog", catalog, "--json", "-")
    assert json.loads(shown)["findings"][0]["kind"] == "duplicate"


def test_a_mended_copy_is_clean_and_the_original_is_as_it_was(
    run: Run, catalog: Path, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    status, shown = run(
        "--catalog", catalog, f"{tmp_path.name}_train", "--fix", tmp_path / "mended"
    )
    assert status == 1 and "2 changes" in shown
    assert all(path.read_bytes() == data for path, data in before.items())
    status, shown = run("--catalog", tmp_path / "mended" / "catalog.yaml")
    assert status == 0 and "12 instances" in shown
    _forget("mended_coco")


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "png_masks"])
def test_a_converted_copy_holds_every_instance(
    run: Run, catalog: Path, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "copy"
    status, shown = run("--catalog", catalog, f"{tmp_path.name}_val", "--convert", format, out)
    assert status == 0 and "12 images, 12 instances, written" in shown
    status, shown = run("--catalog", out / "catalog.yaml")
    assert status == 0 and "12 images, 12 instances; kite 12" in shown
    _forget(f"copy_{format}")


def test_a_converted_part_tells_of_its_own_losses(run: Run, catalog: Path, tmp_path: Path) -> None:
    """Of one file in two parts; images 0, 4 and 8 are for validation."""
    (tmp_path / "val" / "3.png").unlink()
    entry = {"format": "coco", "annotations": "val.json", "image_root": "val", "hold_out_every": 4}
    names = [f"{tmp_path.name}_part_{part}" for part in ("train", "val")]
    parts = {name: {**entry, "part": name.split("_")[-1]} for name in names}
    catalog.write_text(yaml.safe_dump(parts))
    lost = "1 image that is listed, but not on disk"
    for name, images in zip(names, (8, 3), strict=True):
        out = tmp_path / name
        status, shown = run("--catalog", catalog, name, "--convert", "coco", out)
        assert status == 0 and f"{images} images, {images} instances, written" in shown
        assert (lost in shown) == (images == 8)
    for name in names:
        _forget(name)


def test_a_mended_pair_has_one_catalog(run: Run, catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "mended"
    run("--catalog", catalog, "--fix", out)
    assert [path.relative_to(out) for path in out.rglob("catalog.yaml")] == [Path("catalog.yaml")]
    status, shown = run("--catalog", out / "catalog.yaml")
    names = [f"mended_{tmp_path.name}_{part}" for part in ("train", "val")]
    assert status == 0 and all(f"{name}: 12 images, 12 instances" in shown for name in names)
    for name in names:
        _forget(name)


@pytest.mark.parametrize("format", EXPORTED)
def test_a_converted_pair_has_one_catalog(
    run: Run, catalog: Path, tmp_path: Path, format: str
) -> None:
    """In YOLO's format, one data.yaml, whose class numbers hold for both."""
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"] = [{"id": 2, "name": "box"}, {"id": 1, "name": "kite"}]
    content["annotations"][0]["category_id"] = 2
    (tmp_path / "val.json").write_text(json.dumps(content))
    out = tmp_path / "copy"
    status, _ = run("--catalog", catalog, "--convert", format, out)
    assert status == 0
    assert [path.relative_to(out) for path in out.rglob("catalog.yaml")] == [Path("catalog.yaml")]
    if format == "yolo":
        (data,) = out.rglob("data.yaml")
        parts = {key: f"{tmp_path.name}_{key}/images" for key in ("train", "val")}
        assert yaml.safe_load(data.read_text()) == {**parts, "names": {0: "kite", 1: "box"}}
    names = [f"copy_{tmp_path.name}_{part}" for part in ("train", "val")]
    assert register_catalog(out / "catalog.yaml") == names
    counts = []
    for name in names:
        classes = DatasetCatalog.get(name) and MetadataCatalog.get(name).thing_classes
        labels = [a["category_id"] for r in DatasetCatalog.get(name) for a in r["annotations"]]
        counts.append({c: labels.count(k) for k, c in enumerate(classes) if k in labels})
        _forget(name)
    val = {"kite": 11, "box": 1}
    # png masks hold no names: a set of several classes is told by number
    assert counts[0] == {"kite": 13} and (format == "png_masks" or counts[1] == val)


def test_a_dataset_that_is_declared_nowhere(run: Run, catalog: Path, tmp_path: Path) -> None:
    files = ["--annotations", tmp_path / "val.json", "--image-root", tmp_path / "val"]
    status, shown = run("--format", "coco", *files)
    assert status == 0 and shown.startswith("val: 12 images")
    _forget("val")


@pytest.mark.parametrize("config", ["", "configs/shapes/mask_rcnn_transfer.yaml"])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_of_either_format_are_mapped_as_training_does(
    config: str, mask_format: str, run: Run, catalog: Path, tmp_path: Path, repository: Path
) -> None:
    """The config says polygon, as detectron2 does, and training follows the dataset."""
    file = tmp_path / "val.json"
    content = json.loads(file.read_text())
    if mask_format == "bitmask":
        for annotation in content["annotations"]:
            rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], 300, 400))
            annotation["segmentation"] = {**rle, "counts": rle["counts"].decode()}
        file.write_text(json.dumps(content))
    options = ["--config-file", repository / config] if config else []
    status, shown = run("--catalog", catalog, f"{tmp_path.name}_val", *options)
    assert status == 0 and "mapper" not in shown


def test_a_page(run: Run, catalog: Path, tmp_path: Path) -> None:
    page = tmp_path / "doctor.html"
    _, shown = run("--catalog", catalog, "--html", page)
    assert str(page) in shown
    assert "instance that is there twice" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no dataset: name a folder"),
        (["baloon_train"], "did you mean 'balloon_train'"),
        (["--format", "coco"], "no dataset: name a folder"),
        (["balloon_train", "--convert", "voc", "out"], "expected one of coco, yolo"),
        (["--catalog", "nowhere.yaml"], "nowhere.yaml"),
        (["--format", "coco", "--annotations", "a.json"], "a.json does not exist"),
    ],
)
def test_mistakes(run: Run, arguments: list[str], message: str) -> None:
    status, shown = run(*arguments)
    assert status == 1 and message in shown


def test_what_the_command_line_lists_is_there() -> None:
    """It names the formats itself: loading them would take longer than ``--help`` may."""
    assert tuple(FORMATS) == FORMATS_LISTED and tuple(EXPORTERS) == EXPORTED


def test_a_folder_is_recognised_and_declared(run: Run, catalog: Path, tmp_path: Path) -> None:
    """What is written says the same as the folder; what was said of it goes into it."""
    export = tmp_path / "kites"
    for part, folder in (("train", "train"), ("val", "valid")):
        export.mkdir(exist_ok=True)
        (tmp_path / part).rename(export / folder)
        (tmp_path / f"{part}.json").rename(export / folder / "_annotations.coco.json")
    status, shown = run(export, "--write", tmp_path / "kites.yaml", "--classes", "kite")
    assert status == 1 and "found kites_train: coco" in shown and "that is there twice" in shown
    assert shown.rstrip().endswith(f"--catalog {tmp_path / 'kites.yaml'} --fix mended")
    assert yaml.safe_load((tmp_path / "kites.yaml").read_text()) == {
        f"kites_{part}": {"format": "coco", "classes": ["kite"]}
        | {"annotations": f"kites/{folder}/_annotations.coco.json"}
        for part, folder in (("train", "train"), ("val", "valid"))
    }
    assert run(export, "--write", tmp_path / "kites.yaml") == (
        1,
        f"error: --write {tmp_path / 'kites.yaml'}: exists already; nothing is overwritten",
    )
    status, shown = run("--catalog", tmp_path / "kites.yaml", "kites_val")
    assert status == 0 and f"next: {typed('config')} --catalog" in shown
    status, shown = run(export / "valid", "--format", "labelme")
    assert status == 1 and "has no dataset of format" in shown
    for part in ("train", "val"):
        _forget(f"kites_{part}")
