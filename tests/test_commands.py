"""One table: transfer-maskrcnn NAME and tools/*.py; what hints tell the reader to type."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer_maskrcnn import __main__, cli
from transfer_maskrcnn.cli import command_line, program, tool_parser, typed, typed_script
from transfer_maskrcnn.config import config_file, load_config
from transfer_maskrcnn.errors import ConfigError
from transfer_maskrcnn.table import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
NO_COMMANDS = {"demo.py", "benchmark.py"}  # of the clone, not of a user's work
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments, status=0): the command in this process; what it prints."""

    def run(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/transfer-maskrcnn", *arguments])
        monkeypatch.setenv("COLUMNS", "80")
        try:
            __main__.main()
            found: int | str | None = 0
        except SystemExit as stop:
            found = stop.code or 0
        assert found == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_every_tool_is_a_command() -> None:
    tools = {path.name for path in (ROOT / "tools").glob("*.py")}
    assert tools - NO_COMMANDS == {command.file for command in COMMANDS.values()}
    for command in COMMANDS.values():
        module = importlib.import_module(f"transfer_maskrcnn.commands.{command.module}")
        assert callable(getattr(module, command.function))
        text = (ROOT / "tools" / command.file).read_text(encoding="utf-8")
        assert f"    {command.function}()\n" in text  # the same code


def test_an_unknown_option_has_a_near_one(run: Run) -> None:
    assert "did you mean '--time'" in run("finetune", "photos", "--tiem", "3m", status=2)
    parser = tool_parser("Of a value that begins as an option does.")
    parser.add_argument("--time")
    assert parser.parse_args(["--time", "-5m"]).time == "-5m"


def test_help_lists_all_commands(run: Run) -> None:
    shown = run("--help")
    assert shown == run() == run("help")
    assert run("help", "weights") == run("weights", "--help")
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each(run: Run, name: str) -> None:
    shown = run(name, "--help")
    assert shown.startswith(f"usage: transfer-maskrcnn {name} ")
    assert f"{typed(name)} " in " ".join(shown.replace("\\\n", "").split())
    assert "tools/" not in shown


def test_an_unknown_command(run: Run) -> None:
    assert "did you mean 'predict'" in run("predit", status=2)


def test_version(run: Run) -> None:
    assert run("--version").split()[0] == "transfer-maskrcnn"


COMPLETED = [
    # words, the last one not finished; what is offered
    (("pr",), ["predict"]),
    (("predict", "--ou"), ["--output"]),
    (("predict", "photo"), []),  # the shell's own: files
]


@pytest.mark.parametrize(("words", "offered"), COMPLETED)
def test_completion_in_bash(
    run: Run, tmp_path: Path, words: tuple[str, ...], offered: list[str]
) -> None:
    command = tmp_path / "transfer-maskrcnn"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m transfer_maskrcnn "$@"\n')
    command.chmod(0o755)
    script = f"{run('completion')}\nCOMP_WORDS=({shlex.join([str(command), *words])})\n"
    script += f'COMP_CWORD={len(words)}\n_transfer_maskrcnn\necho "${{COMPREPLY[@]}}"'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")


# ------------------------------------------------------------------- what the reader types


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that was set up, with the reader in it, who runs a tool."""
    for folder in ("tools", "transfer_maskrcnn", ".venv/bin", "photos", "my photos"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tools/predict.py").touch()
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr(sys, "argv", ["tools/check_dataset.py", "photos"])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_command(folder: Path) -> None:
    (folder / "transfer-maskrcnn").touch(mode=0o755)


def test_in_a_clone_it_is_the_tool(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_command(clone / ".venv/bin")
    assert typed("predict") == ".venv/bin/python tools/predict.py"
    assert program("predict") == "predict.py"
    monkeypatch.chdir(clone / "photos")
    assert typed("predict") == "../.venv/bin/python ../tools/predict.py"


def test_scripts_that_only_a_clone_has(clone: Path) -> None:
    command = "python datasets/prepare_x.py"
    assert typed_script(command) == f"{command}, in a checkout of transfer_maskrcnn"
    (clone / "datasets").mkdir()
    (clone / "datasets/prepare_x.py").touch()
    assert typed_script(command) == f".venv/bin/{command}"
    assert typed_script("wget https://example.org/x.zip") == "wget https://example.org/x.zip"


def test_with_a_path_that_is_quoted(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(clone / "my photos/python"))
    assert typed("predict") == "'my photos/python' tools/predict.py"


STARTED = ["/x/bin/transfer-maskrcnn", "transfer-maskrcnn check"]  # at first, and in its command


@pytest.mark.parametrize("started", STARTED)
def test_who_starts_the_command_types_it(
    clone: Path, monkeypatch: pytest.MonkeyPatch, started: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert typed("predict") == ".venv/bin/python -m transfer_maskrcnn predict"
    make_command(clone / ".venv/bin")
    assert typed("predict") == ".venv/bin/transfer-maskrcnn predict"
    make_command(clone / "photos")  # of another environment
    monkeypatch.setenv("PATH", str(clone / "photos"))
    assert typed("predict") == ".venv/bin/transfer-maskrcnn predict"
    monkeypatch.setenv("PATH", str(clone / ".venv/bin"))
    assert typed("predict") == "transfer-maskrcnn predict"


def test_the_line_of_a_process(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/tools/predict.py", "--input", "a b"])
    assert command_line() == [".venv/bin/python", "tools/predict.py", "--input", "a b"]
    monkeypatch.setattr(sys, "argv", ["transfer-maskrcnn predict", "--input"])
    expected = [".venv/bin/python", "-m", "transfer_maskrcnn", "predict", "--input"]
    assert command_line() == expected
    monkeypatch.setattr(sys, "argv", ["my_script.py", "x"])
    assert command_line() == ["my_script.py", "x"]


def test_examples_are_cut_between_options(clone: Path) -> None:
    parser = tool_parser(
        "", f"\n  my: transfer-maskrcnn predict {'x' * 12} -o a --longer \\\n     b\nend\n"
    )
    shown = parser.epilog or ""
    assert shown.splitlines()[1:] == [
        f"  my: .venv/bin/python tools/predict.py {'x' * 12} -o a --longer b",
        "end",
    ]
    parser = tool_parser("", f"  my: transfer-maskrcnn predict {'x' * 38} -o a")
    assert parser.epilog == f"  my: .venv/bin/python tools/predict.py {'x' * 38} \\\n    -o a"


# ------------------------------------------------------------------- configs by name


NAMED = ["balloon/mask_rcnn_R_50_FPN.yaml", "configs/balloon/mask_rcnn_R_50_FPN.yaml"]


@pytest.mark.parametrize("name", NAMED)
def test_configs_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(config_file(name)) == ROOT / NAMED[1]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("SEED: 5\n")  # a reader's own comes first
    assert config_file(name) == name
    (tmp_path / "own.yaml").write_text("_BASE_: dsb2018/mask_rcnn_R_50_FPN.yaml\nSEED: 3\n")
    cfg = load_config("own.yaml")
    assert (cfg.SEED, cfg.DATASETS.TRAIN) == (3, ("dsb2018_train",))


UNKNOWN = [
    # what stands where, and what the error names
    ("baloon/mask_rcnn_R_50_FPN.yaml", "did you mean 'balloon/mask_rcnn_R_50_FPN.yaml'"),
    ("configs/recipes/litle_compute.yaml", "did you mean 'recipes/little_compute.yaml'"),
    ("/nowhere/x.yaml", "there is no such file$"),
]


@pytest.mark.parametrize(("name", "words"), UNKNOWN)
def test_unknown_configs(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--config-file {name}: .*{words}"):
        load_config(name)
    own = tmp_path / "own.yaml"
    own.write_text(f"_BASE_: {name}\n")
    with pytest.raises(ConfigError, match=rf"own.yaml: _BASE_ {name}: .*{words}"):
        load_config(str(own))
