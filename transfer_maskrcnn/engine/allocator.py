"""glibc's allocator set for training on a CPU: memory that is freed is kept for the next step."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache

logger = logging.getLogger(__name__)

# From malloc.h, see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


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
