"""What every tool does alike on a terminal: arguments, progress, pipes, Ctrl-C, errors."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from transfer_maskrcnn.errors import TrainingDivergedError, TransferError, nearest
from transfer_maskrcnn.table import COMMAND, COMMANDS
from transfer_maskrcnn.text import WIDTH, folded, printable

FAILED, DIVERGED_STATUS = 1, 3
# As a shell reports a process that SIGINT, SIGPIPE, or SIGTERM ended.
_INTERRUPTED, _READER_GONE, _TERMINATED = 130, 141, 143
WORKER_TERMINATED = "is killed by signal: Terminated"  # as torch says it
_SECONDS_A_LINE = 30.0  # of progress, where stderr is no terminal

CHECKOUT = Path(__file__).resolve().parents[1]  # where there is one

T = TypeVar("T")


def program(name: str) -> str:
    """``sys.argv[0]`` of the command ``name``, where it is started as this process was."""
    as_command = Path(sys.argv[0]).name.startswith(COMMAND)
    return f"{COMMAND} {name}" if as_command else COMMANDS[name].file


def typed(name: str) -> str:
    """The command ``name`` as the reader types it here, so that it works as it is pasted.

    In a clone it is the file in ``tools/``, with the Python that runs now, unless this process was
    started by ``transfer-maskrcnn``; both as seen from the current folder.
    """
    tool, python = CHECKOUT / "tools" / program(name), _seen(sys.executable)
    if tool.is_file():
        return f"{python} {_seen(tool)}"
    beside = shutil.which(COMMAND, path=os.path.dirname(sys.executable))
    found = shutil.which(COMMAND)
    if found and (beside is None or os.path.samefile(found, beside)):
        return f"{COMMAND} {name}"
    return f"{_seen(beside)} {name}" if beside else f"{python} -m transfer_maskrcnn {name}"


def typed_script(command: str) -> str:
    """A command of a catalog; ``python FILE`` of this project, which only a clone has, as typed."""
    python, _, file = command.partition(" ")
    if python != "python" or not file.startswith("datasets/prepare_"):
        return command
    if (CHECKOUT / file).is_file():
        return f"{_seen(sys.executable)} {_seen(CHECKOUT / file)}"
    return f"{command}, in a checkout of transfer_maskrcnn"


def _seen(path: str | os.PathLike[str]) -> str:
    """``path`` from the current folder, or whole where that is shorter; quoted if it has to be."""
    return shlex.quote(min(os.path.relpath(path), os.path.abspath(path), key=len))


def command_line() -> list[str]:
    """The words that started this process, as :func:`typed` writes the first of them."""
    started = Path(sys.argv[0]).name
    name = next((name for name in COMMANDS if program(name) == started), None)
    return [*(shlex.split(typed(name)) if name else sys.argv[:1]), *sys.argv[1:]]


class _Parser(argparse.ArgumentParser):
    """Knows the option that an unknown one may have meant, and "-5m" as a value."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        super().error(
            message + nearest(unknown[1], self._option_string_actions) if unknown else message
        )


def tool_parser(description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """A parser whose ``--help`` leaves the lines of both texts as they are.

    But for ``transfer-maskrcnn NAME`` in examples, which becomes what is :func:`typed`; a command
    may then be continued on other lines.
    """
    lines = re.sub(r" \\\n *", " ", examples).split("\n")
    return _Parser(
        description=description,
        epilog="\n".join(map(_example, lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _example(line: str) -> str:
    known = rf"{COMMAND} ({'|'.join(COMMANDS)})\b"
    line = re.sub(known, lambda found: typed(found[1]), line)
    if len(line) <= WIDTH:
        return line
    together = re.sub(r"( --?[\w-]+) (?!-)", "\\1\0", line)  # an option and its value
    parts = textwrap.wrap(
        together,
        WIDTH - 2,
        subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(parts).replace("\0", " ")


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the arguments of ``parser`` and, among them anywhere, KEY VALUE pairs as ``opts``.

    (argparse's REMAINDER, which detectron2 uses, swallows flags behind a pair.)
    """
    words = "config keys to override; KEY=VALUE is the same"
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help=words)
    args = parser.parse_intermixed_args(argv)
    args.opts = split_pairs(args.opts)
    return args


def split_pairs(typed: Iterable[Any]) -> list[Any]:
    """Keys and values in turn, from ``KEY=VALUE`` and ``KEY VALUE``."""
    flat: list[Any] = []
    for word in typed:
        key, sign, value = str(word).partition("=")
        flat += [key, value] if sign and len(flat) % 2 == 0 else [word]
    return flat


def whole_number(least: int, text: str) -> int:
    """A whole number from ``least`` on, for argparse."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}; expected whole numbers from {least} on")
    return int(text)


def quiet_third_parties() -> None:
    """Hide warnings out of detectron2 and torch that tell a user of this project nothing."""
    for message in (
        *("torch.meshgrid", "The given NumPy array is not writable", "pkg_resources is"),
        "`torch.jit.script` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if logging.lastResort and sys.stderr.isatty():
        logging.lastResort.setFormatter(Folded(None))


# What torch and the system say -> what it means, and what helps: no faults of the program.
_OUTSIDE = (
    (
        r"DataLoader worker .*(killed|exited unexpectedly)",
        "a process that reads images was killed, probably because memory was short: lower "
        "DATALOADER.NUM_WORKERS, or free memory",
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory",
        "the GPU's memory is full: lower SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN",
    ),
    (
        r"not enough memory|DefaultCPUAllocator|std::bad_alloc|Cannot allocate memory",
        "memory is full: lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN or "
        "DATALOADER.NUM_WORKERS",
    ),
)


def _from_outside(error: BaseException) -> str:
    """The words for an error that the machine made; "" for one of the program's own."""
    if type(error) is MemoryError:
        return _OUTSIDE[-1][1]
    said = str(error)
    return next((words for pattern, words in _OUTSIDE if re.search(pattern, said, re.S)), "")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it: it ends a tool as Ctrl-C does, with files whole."""


@contextmanager
def _terminable() -> Iterator[None]:
    def terminate(*_: Any) -> None:
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.SIG_DFL:  # a thread may not, and who set it knows better
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except RuntimeError as error:  # the signal went to a whole group: torch tells of its worker's
        if WORKER_TERMINATED not in str(error):
            raise
        raise Terminated from None
    finally:
        signal.signal(signal.SIGTERM, before)


def run_tool(main: Callable[[], int | None], after_interrupt: str = "") -> None:
    """Run ``main``; exit with what it returns unless that is 0, or the status of what stopped it.

    Mistakes of the user end in one line on stderr and status 1, a training that diverged in 3;
    Ctrl-C in 130, SIGTERM in 143; a reader that goes away, as ``head`` does, in 141 without a word.

    Args:
        main: returns an exit status, None for 0.
        after_interrupt: what the user can do after Ctrl-C.
    """
    try:
        quiet_third_parties()
        # a log.txt on a full disk is no reason for a stack trace a line
        logging.raiseExceptions = False
        with _terminable():
            status = main() or 0
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would fail again when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _READER_GONE
    except TrainingDivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        status = DIVERGED_STATUS
    except (TransferError, OSError) as error:  # OSError: a full disk, no right to write, ...
        text = "error: " + "\n".join(printable(str(_first_cause(error)).split("\n")))
        sys.exit(folded(text) if sys.stderr.isatty() else text)
    except (RuntimeError, MemoryError) as error:
        words = _from_outside(error)
        if not words:
            raise
        said = str(error).splitlines()[0] if str(error) else "no memory"
        sys.exit(f"error: {words}{after_interrupt and f'; {after_interrupt}'} ({said})")
    except KeyboardInterrupt as stop:
        is_term = isinstance(stop, Terminated)
        word = "terminated" if is_term else "interrupted"
        if hasattr(signal, "SIGCHLD"):  # by which torch would raise errors for its workers' end
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(word + (after_interrupt and f"; {after_interrupt}"), file=sys.stderr)
        status = _TERMINATED if is_term else _INTERRUPTED
    if status:
        sys.exit(status)


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first: detectron2 evaluates and logs after an error too, and fails again.

    Of one full disk told twice, the error that names the file.
    """
    while isinstance(error.__context__, (TransferError, OSError)) and not isinstance(
        error, TransferError
    ):
        before = error.__context__
        if getattr(error, "filename", None) and getattr(before, "filename", "?") is None:
            break
        error = before
    return error


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """``items`` with a progress bar on stderr, if a person watches it for over two seconds.

    Where stderr is no terminal, a line every half minute says how far it is.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, delay=2, leave=False, dynamic_ncols=True)
        return
    tell = now_and_then(what, total)
    for done, item in enumerate(items):
        tell(done)
        yield item


def now_and_then(what: str, total: int | None = None) -> Callable[[int], None]:
    """What prints how many are done, on stderr, when it is told so half a minute later or more."""
    of, told = f" of {total:,}" if total else "", time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _SECONDS_A_LINE:
            told = now
            print(f"{what}: {done:,}{of}", file=sys.stderr, flush=True)

    return tell


class Folded(logging.Formatter):
    """Warnings in lines of 80 columns, for a terminal; the rest as ``inner`` has it."""

    def __init__(self, inner: logging.Formatter | None):
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        return folded(text) if record.levelno >= logging.WARNING else text
