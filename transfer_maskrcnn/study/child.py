"""Runs a script that ends when the process that started it does, however that ended.

Called as ``python child.py PARENT SCRIPT ARGUMENT ...``. A study that is killed would otherwise
leave its training behind, which goes on writing where the restarted study trains.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux' prctl(2)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, where it can (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as if it had been run itself
    runpy.run_path(sys.argv[0], run_name="__main__")
