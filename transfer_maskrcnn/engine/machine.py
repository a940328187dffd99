"""The machine a run is on: its device, what its libraries say, and how its memory is kept."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache
from logging.handlers import MemoryHandler
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from transfer_maskrcnn.errors import ConfigError

logger = logging.getLogger(__name__)

# From malloc.h, see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


class Logs:
    """What this package logs: on the terminal at once, in ``log.txt`` as soon as it is clear that a
    run begins there. Until then it is kept, so that a command that fails leaves no trace.

    Of several processes the first alone speaks on the terminal; each has a file of its own.
    """

    def __init__(self) -> None:
        name = __name__.split(".")[0]
        setup_logger(distributed_rank=comm.get_rank(), name=name, abbrev_name="transfer")
        self._logger = logging.getLogger(name)
        for handler in self._logger.handlers[:]:
            if isinstance(handler, logging.FileHandler):  # of an earlier run of this process
                self._logger.removeHandler(handler)
                handler.close()
        self._early = MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1)
        self._logger.addHandler(self._early)

    def write_to(self, folder: str) -> None:
        """Write what was logged and what will be to ``folder/log.txt``, which detectron2 shares."""
        rank = comm.get_rank()
        file = logging.FileHandler(Path(folder, f"log.txt.rank{rank}" if rank else "log.txt"))
        shown = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
        file.setFormatter(logging.Formatter(shown, datefmt="%m/%d %H:%M:%S"))
        self._early.setTarget(file)
        self._logger.removeHandler(self._early)
        self._early.close()
        self._logger.addHandler(file)


def check_device(device: str) -> None:
    """Say in one line where the model runs.

    Raises:
        ConfigError: CUDA is asked for where there is none.
    """
    if not device.startswith("cuda"):
        logger.info("MODEL.DEVICE %s (%d threads)", device, torch.get_num_threads())
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but torch {torch.__version__} sees no CUDA device; "
            "use MODEL.DEVICE cpu, or install the driver and a CUDA build of torch"
        )
    logger.info("MODEL.DEVICE %s (%s)", device, torch.cuda.get_device_name(device))


@cache
def keep_freed_memory() -> bool:
    """Stop glibc from handing large blocks back to the kernel; whether it does so now.

    Every activation above 32 MB would be mapped and zeroed page by page afresh, in each step.
    As ``GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=...``, but without a
    new process. The process then holds on to its peak. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
    if done:
        logger.info("malloc keeps freed memory for the next step (glibc: no mmap, no trimming)")
    return done
