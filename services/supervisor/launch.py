"""Ties a process to the supervisor's life, then becomes it: `launch.py SUPERVISOR_PID PROGRAM ARGUMENT…`.

A file of its own that Python runs bare, since code between fork and exec is unsafe once gRPC has its threads. The
kernel keeps the death signal across exec. Elsewhere than on Linux there is none, and the next `isthmus up` ends what a
killed supervisor left behind.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(supervisor: int, argv: list[str]) -> None:
    """Never returns: the process is the program's from here on, or ends if the supervisor is already gone."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    if os.getppid() != supervisor:
        sys.exit(f"launch: the supervisor {supervisor} is gone")
    os.execv(argv[0], argv)  # noqa: S606 - a plan's program, never through a shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
