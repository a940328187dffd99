"""The set-up script, and the package as a stranger gets it: a wheel, outside of this repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = "transfer-maskrcnn"
REPOSITORY = Path(__file__).resolve().parents[1]
BUILTIN_NAMES = {
    f"{name}_{split}"
    for name in ("balloon", "dsb2018", "fruits_nuts", "kudzu", "shapes")
    for split in ("train", "val")
}


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)  # type: ignore[call-overload]


# ---------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target"]
    assert run(*pip, target, wheel).returncode == 0
    return target


def run_outside(script: str, installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script of a stranger: another folder, the installed package, and no dataset anywhere."""
    (folder / "datasets").mkdir()
    (folder / "script.py").write_text(script)
    environment = os.environ | {
        "PYTHONPATH": str(installed),
        "PYTHONWARNINGS": "ignore",
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }
    return run(sys.executable, "script.py", cwd=folder, env=environment)


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata_name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(metadata_name).decode()
    sources = REPOSITORY / "transfer_maskrcnn"
    wanted = {p for p in sources.rglob("*") if p.suffix in {".py", ".yaml", ".html", ".pth"}}
    assert {path.relative_to(REPOSITORY).as_posix() for path in wanted} <= names
    assert "transfer_maskrcnn/data/catalog.yaml" in names
    configs = (REPOSITORY / "configs").rglob("*.*")
    assert {
        f"transfer_maskrcnn/{path.relative_to(REPOSITORY).as_posix()}" for path in configs
    } <= names
    assert "transfer_maskrcnn/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "transfer_maskrcnn"
    }
    version = re.findall(
        r'^__version__ = "(.+)"', (sources / "__init__.py").read_text(), re.MULTILINE
    )[0]
    assert f"Version: {version}\n" in metadata
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
    required = re.findall(r"Requires-Dist: ([\w.-]+)", metadata)
    assert "torch" in required and not [name for name in required if "detectron2" in name]


@pytest.mark.slow
def test_registrations_from_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    result = run_outside(
        """
import os, sys
touched = []
sys.addaudithook(lambda event, args: touched.append(str(args[0])) if args else None)
import transfer_maskrcnn
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
transfer_maskrcnn.add_transfer_config(get_cfg())
assert callable(transfer_maskrcnn.register_dataset)
assert isinstance(transfer_maskrcnn.WeightSurgeryHook, type)
assert not [path for path in touched if path.startswith(os.environ["DETECTRON2_DATASETS"])]
open("names.txt", "w").write("\\n".join([transfer_maskrcnn.__file__, *DatasetCatalog.list()]))
""",
        installed,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""
    file, *names = (tmp_path / "names.txt").read_text().split("\n")
    assert Path(file).is_relative_to(installed)
    assert set(names) >= BUILTIN_NAMES


@pytest.mark.parametrize(("program", "errors"), [("a.py", ["ImportError"]), (COMMAND, [])])
def test_without_detectron2_one_error_says_how_to_install_it(
    installed: Path, tmp_path: Path, program: str, errors: list[str]
) -> None:
    result = run_outside(
        f"""
import sys
sys.argv[0] = "/x/bin/{program}"
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ModuleNotFoundError("No module of that name", name=name)
sys.meta_path.insert(0, Blocked())
import transfer_maskrcnn
""",
        installed,
        tmp_path,
    )
    assert result.returncode == 1
    assert "sal-detectron2" in result.stderr
    assert "git+https://github.com/facebookresearch/detectron2" in result.stderr
    assert result.stderr.count("Traceback") == len(errors)
    assert re.findall(r"^(\w+Error)\b", result.stderr, re.MULTILINE) == errors


def test_version_is_the_same_everywhere() -> None:
    result = run(sys.executable, "setup.py", "--version", cwd=REPOSITORY)
    assert (
        result.stdout.strip().splitlines()[-1]
        in (REPOSITORY / "transfer_maskrcnn" / "__init__.py").read_text()
    )


@pytest.mark.parametrize("path", sorted((REPOSITORY / "requirements").glob("*.txt")), ids=str)
def test_requirements_are_pinned_and_name_no_index(path: Path) -> None:
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            assert line == "-c constraints.txt" or re.match(
                r"[\w.-]+==[\w.]+(; python_version|$)", line
            )


# ---------------------------------------------------------------------------- make setup

# A Python that answers the set-up script's questions and notes what it was asked to install.
FAKE_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -m ] && [ "$2" = venv ]; then
  [ "$3" = --clear ] && rm -rf "$4"
  mkdir -p "$4/bin"
  printf 'version = VERSION\\n' >"$4/pyvenv.cfg"
  cp "$0" "$4/bin/python"
  touch "$4/bin/pip"
elif [ "$1" = -m ] && [ "$2" = pip ]; then
  [ "$3" = freeze ] && exit 0
  shift 3
  echo "$*" >>LOG
  [ ! -e LOG.kill ] || kill -9 $PPID
  [ ! -e LOG.fail ] || { echo "ERROR: no network" >&2; exit 1; }
else
  case "$2" in
    *ensurepip*) echo "LACK" ;;
    *version_info*3*) echo VERSION ;;
    *) echo answered ;;
  esac
fi
"""


class SetUp:
    """A copy of what `make setup` reads, and fake Pythons to run it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.venv = folder / ".venv"
        (folder / "bin").mkdir()
        (folder / "transfer_maskrcnn" / "modeling").mkdir(parents=True)
        shutil.copytree(REPOSITORY / "requirements", folder / "requirements")
        for name in ("Makefile", "setup.py", "transfer_maskrcnn/__init__.py"):
            shutil.copy(REPOSITORY / name, folder / name)
        for path in (REPOSITORY / "transfer_maskrcnn" / "modeling").glob("roi_*.[ch]"):
            shutil.copy(path, folder / "transfer_maskrcnn" / "modeling")
        for tool in (
            "bash",
            "make",
            "sed",
            "cat",
            "cksum",
            "tr",
            "ls",
            "grep",
            "rm",
            "cp",
            "mkdir",
        ):
            self.link(tool)
        for tool in ("dirname", "touch", "kill"):
            self.link(tool)

    def link(self, tool: str) -> None:
        path = shutil.which(tool)
        if path:
            (self.folder / "bin" / tool).symlink_to(path)

    def add_python(self, name: str, version: str, lack: str = "") -> Path:
        path = self.folder / "bin" / name
        text = FAKE_PYTHON.replace("VERSION", version).replace("LACK", lack)
        path.write_text(text.replace("LOG", str(self.log)))
        path.chmod(0o755)
        return path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder / "bin"), "HOME": str(self.folder)}
        return run("make", "setup", *arguments, cwd=self.folder, env=environment)

    def installs(self) -> int:
        """How often pip was called since the last time this was asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return len(lines)


@pytest.fixture
def setup(tmp_path: Path) -> SetUp:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    return SetUp(tmp_path)


def test_setup_installs_once(setup: SetUp) -> None:
    setup.add_python("python3", "3.12.1")
    first = setup.make()
    assert first.returncode == 0, first.stderr
    assert ".venv with Python 3.12.1" in first.stdout
    assert setup.installs() == 4  # tools, runtime, detectron2, the project
    second = setup.make()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert setup.installs() == 0


def change(setup: SetUp, name: str) -> None:
    (setup.folder / name).write_text("changed")


CHANGES: list[tuple[Callable[[SetUp], object], tuple[str, ...], int]] = [
    # what changes, how make is called, and how often pip runs then
    (lambda s: s.folder.joinpath("requirements/dev.txt").write_text("wheel==1\n"), (), 3),
    (lambda s: change(s, "setup.py"), (), 1),
    (lambda s: change(s, "transfer_maskrcnn/modeling/roi_align.c"), (), 1),
    (lambda s: change(s, "transfer_maskrcnn/modeling/roi_weights.h"), (), 1),
    (lambda s: None, ("REQUIREMENTS=requirements/py310-torch23.txt",), 3),
    (lambda s: s.add_python("python3.11", "3.11.7"), ("PYTHON=python3.11",), 4),
    (lambda s: s.venv.joinpath("bin/python").unlink(), (), 4),
    (lambda s: s.venv.joinpath("bin/pip").unlink(), (), 4),
    (lambda s: s.add_python("python3.11", "3.11.7"), (), 0),
]


@pytest.mark.parametrize(("change", "arguments", "installs"), CHANGES)
def test_setup_follows_changes(
    setup: SetUp, change: Callable[[SetUp], object], arguments: tuple[str, ...], installs: int
) -> None:
    setup.add_python("python3", "3.12.1")
    setup.make()
    setup.installs()
    change(setup)
    assert setup.make(*arguments).returncode == 0
    assert setup.installs() == installs
    assert setup.make(*arguments).returncode == 0
    assert setup.installs() == 0


@pytest.mark.parametrize("how", ["kill", "fail"])
def test_interrupted_setup_is_completed(setup: SetUp, how: str) -> None:
    setup.add_python("python3", "3.12.1")
    trap = setup.folder / f"log.{how}"
    trap.touch()
    broken = setup.make()
    assert broken.returncode != 0
    assert not (setup.venv / ".setup-packages").exists()
    if how == "fail":
        assert "no network" in broken.stderr
        assert "run it again" in broken.stderr
    trap.unlink()
    setup.installs()
    again = setup.make()
    assert again.returncode == 0, again.stderr
    assert "interrupted" in again.stdout
    assert setup.installs() == 4


def test_setup_skips_unsuitable_pythons(setup: SetUp) -> None:
    setup.add_python("python3", "3.9.2", lack="is Python 3.9; 3.10 to 3.13 will do")
    setup.add_python("python3.13", "3.13.0")
    assert "with Python 3.13.0" in setup.make().stdout


def test_setup_without_a_suitable_python_says_what_to_install(setup: SetUp) -> None:
    setup.add_python("python3", "3.9.2", lack="is Python 3.9; 3.10 to 3.13 will do")
    result = setup.make()
    assert result.returncode != 0
    for hint in ("python3 is Python 3.9", "python3.12: not found", "python3-venv", "uv python"):
        assert hint in result.stderr
    assert not setup.venv.exists()


@pytest.mark.parametrize("name", ["no-such-python", "python3.9"])
def test_setup_with_an_unsuitable_python_given(setup: SetUp, name: str) -> None:
    setup.add_python("python3", "3.12.1")
    setup.add_python("python3.9", "3.9.2", lack="is Python 3.9; 3.10 to 3.13 will do")
    setup.make()
    result = setup.make(f"PYTHON={name}")
    assert result.returncode != 0
    assert "no suitable Python" in result.stderr
    assert (setup.venv / ".setup-packages").exists()  # the environment that works is left alone


def test_setup_touches_no_other_folder(setup: SetUp) -> None:
    setup.add_python("python3", "3.12.1")
    (setup.folder / "precious").mkdir()
    (setup.folder / "precious" / "thesis.tex").touch()
    result = setup.make("VENV=precious")
    assert result.returncode != 0
    assert "no virtual environment" in result.stderr
    assert (setup.folder / "precious" / "thesis.tex").exists()


def test_suitability_as_a_real_python_sees_it() -> None:
    script = (REPOSITORY / "requirements" / "install.sh").read_text()
    program = script.split('"$1" -c \'')[1].split("'")[0]
    result = run(sys.executable, "-c", program)
    assert (result.stdout, result.stderr) == ("\n", "")
