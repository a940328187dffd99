"""The command ``train`` in a process that ends when the one that started it does, however it ends.

Called as ``python child.py PARENT NAME ARGUMENT ...``; NAME is what the process calls itself. A
study that is killed would otherwise leave its training behind, which goes on writing where the
restarted study trains.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

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
    # what lies beside this file has common names; the package itself may not be installed
    sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parents[2])]
    from transfer_maskrcnn.commands.train_net import train_net

    train_net()
