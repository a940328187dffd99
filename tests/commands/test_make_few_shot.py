"""What tools/make_few_shot.py writes can be trained on by name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer_maskrcnn.commands.make_few_shot import make_few_shot
from transfer_maskrcnn.data.registry import register_catalog
from transfer_maskrcnn.errors import ConfigError, TransferError

_numbers = count()  # detectron2's catalogs outlive a test


@pytest.fixture
def declared(
    write_dataset: Callable[[str, Path], dict[str, Any]], tmp_path: Path
) -> Callable[..., tuple[Path, list[str]]]:
    """declared(*formats) -> a catalog with a dataset of each format, and their names."""

    def make(*formats: str) -> tuple[Path, list[str]]:
        entries = {}
        for format in formats:
            name = f"few_{next(_numbers)}_{format}"
            entry = write_dataset(format, tmp_path / "my data" / name)
            for key in entry.keys() & {"annotations", "image_root"}:
                entry[key] = f"my data/{name}/{entry[key]}"
            entries[name] = entry
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump(entries))
        return path, list(entries)

    return make


def test_subsets_of_what_a_folder_has_to_train_on(
    write_dataset: Callable[[str, Path], dict[str, Any]], tmp_path: Path
) -> None:
    stem = f"few_{next(_numbers)}"
    for part in ("train", "valid"):
        write_dataset("coco", tmp_path / stem / part)
    make_few_shot([str(tmp_path / stem), "--shots", "2", "--output", str(tmp_path / f"{stem}_out")])
    declared = yaml.safe_load((tmp_path / f"{stem}_out" / "catalog.yaml").read_text())
    subset = f"{stem}_out_2shot_seed0"
    assert list(declared) == [f"{stem}_train", f"{stem}_val", subset]
    assert declared[subset]["image_root"] == str(tmp_path / stem / "train/images/train")


@pytest.mark.parametrize("formats", [("coco",), ("labelme",), ("yolo",), ("coco", "via")])
def test_subsets_of_any_format(
    formats: tuple[str, ...],
    declared: Callable[..., tuple[Path, list[str]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalog, names = declared(*formats)
    out = tmp_path / f"shots {next(_numbers)}"
    flags = ["--shots", "1", "3", "--seeds", "0", "2", "--catalog", str(catalog)]
    make_few_shot([*names, *flags, "--output", str(out)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"4 sets of 2 classes ('blob', 'bar') in\n  {out}\n")
    assert all(len(line) <= 80 or str(out) in line for line in printed.splitlines())
    subsets = [f"{out.name}_{k}shot_seed{s}" for k in (1, 3) for s in (0, 2)]
    declared_now = yaml.safe_load((out / "catalog.yaml").read_text())
    assert list(declared_now) == [*names, *subsets], "what --catalog has can be tested on"
    for name in names:
        assert Path(declared_now[name]["annotations"]).exists()
    only_new = {name: declared_now[name] for name in subsets}
    (out / "catalog.yaml").write_text(yaml.safe_dump(only_new))
    register_catalog(out / "catalog.yaml")
    for name, shots in zip(subsets, (1, 1, 3, 3), strict=True):
        dicts = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).thing_classes == ["blob", "bar"]
        assert all(Path(record["file_name"]).is_file() for record in dicts)
        found = Counter(a["category_id"] for r in dicts for a in r["annotations"])
        assert found == {0: shots, 1: shots}


def test_the_same_command_writes_the_same(
    declared: Callable[..., tuple[Path, list[str]]], tmp_path: Path
) -> None:
    catalog, names = declared("coco")
    texts = []
    for folder in ("one", "two"):
        flags = ["--shots", "2", "--catalog", str(catalog), "--classes", "bar"]
        make_few_shot([*names, *flags, "--output", str(tmp_path / folder)])
        texts.append((tmp_path / folder / "2shot_seed0.json").read_text())
    assert texts[0] == texts[1]
    assert [c["name"] for c in json.loads(texts[0])["categories"]] == ["bar"]


def test_nothing_is_overwritten(
    declared: Callable[..., tuple[Path, list[str]]], tmp_path: Path
) -> None:
    catalog, names = declared("coco")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    command = [*names, "--catalog", str(catalog), "--shots", "1", "--output"]
    with pytest.raises(TransferError, match="nothing is overwritten"):
        make_few_shot([*command, str(tmp_path / "out")])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


# arguments beside the dataset's name, words of the error
MISTAKES = [
    (["--shots", "9"], "'blob' has 3, 'bar' has 4; the largest --shots is 3"),
    (["no_such_set", "--shots", "1"], "no dataset is registered as 'no_such_set'"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_leave_nothing(
    arguments: list[str],
    words: str,
    declared: Callable[..., tuple[Path, list[str]]],
    tmp_path: Path,
) -> None:
    catalog, names = declared("coco")
    with pytest.raises(TransferError, match=words):
        flags = ["--catalog", str(catalog), "--output", str(tmp_path / "out")]
        make_few_shot([*names, *arguments, *flags])
    assert not (tmp_path / "out").exists()


def test_names_that_are_taken(
    declared: Callable[..., tuple[Path, list[str]]], tmp_path: Path
) -> None:
    catalog, names = declared("coco")
    folder = f"taken_{next(_numbers)}"
    entries = yaml.safe_load(catalog.read_text())
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({**entries, f"{folder}_2shot_seed0": entries[names[0]]}))
    flags = [*names, "--shots", "1", "2", "--output", str(tmp_path / folder)]
    for given, words in ((more, "declared by --catalog already"), (catalog, "registered already")):
        with pytest.raises(ConfigError, match=rf"'{folder}_2shot_seed0'.*{words}; choose another"):
            make_few_shot([*flags, "--catalog", str(given)])
        assert not (tmp_path / folder).exists()
