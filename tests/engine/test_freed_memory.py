"""glibc keeps what is freed; other C libraries are left alone, and nothing is done twice."""

from __future__ import annotations

import ctypes
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from transfer_maskrcnn.engine import run as allocator
from transfer_maskrcnn.engine.run import keep_freed_memory


@pytest.fixture(autouse=True)
def fresh(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger=allocator.__name__)
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


class Mallopt:
    """Stands for glibc's: the tests' own process stays as it is."""

    def __init__(self, refused: int | None = None):
        self.calls: list[tuple[int, int]] = []
        self._refused = refused

    def __call__(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return int(parameter != self._refused)


def pretend(patch: pytest.MonkeyPatch, library: str, mallopt: Mallopt) -> None:
    patch.setattr(platform, "libc_ver", lambda: (library, "2.36" if library else ""))
    patch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))


def test_it_is_done_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mallopt = Mallopt()
    pretend(monkeypatch, "glibc", mallopt)
    assert [keep_freed_memory() for _ in range(3)] == [True] * 3
    assert mallopt.calls == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD
    assert caplog.text.count("malloc keeps freed memory") == 1


@pytest.mark.parametrize("library", ["", "musl", "libc"])
def test_other_libraries_are_left_alone(
    library: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mallopt = Mallopt()
    pretend(monkeypatch, library, mallopt)
    assert keep_freed_memory() is False
    assert mallopt.calls == []
    assert caplog.text == ""


@pytest.mark.parametrize("refused", [-4, -1])
def test_glibc_may_refuse(
    refused: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, "glibc", Mallopt(refused))
    assert keep_freed_memory() is False
    assert caplog.text == ""


REUSE = """
import ctypes, runpy, sys

keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
c.mallinfo2.restype = Info

def mapped_and_kept():
    block = c.malloc(100 * 2**20)
    mapped = c.mallinfo2().hblkhd
    c.free(block)
    return mapped >= 100 * 2**20, c.mallinfo2().fordblks >= 100 * 2**20

print(mapped_and_kept(), keep_freed_memory(), keep_freed_memory(), mapped_and_kept())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library is not glibc from 2.33 on"
)
@pytest.mark.slow
def test_glibc_keeps_100_mb() -> None:
    """In a process of its own; beforehand such a block is mapped, and unmapped when it is freed."""
    assert allocator.__file__ is not None
    command = [sys.executable, "-c", REUSE, allocator.__file__]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(True, False) True True (False, True)"
