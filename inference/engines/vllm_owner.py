"""Ends the process that holds the model when the room's process is gone.

vLLM ends it when it is stopped in order. Where the room dies without a word it would stay for ever, with the model and
its memory. vLLM imports this module in every process that holds a part of a model, as its worker's extension; the
room's process id is in the environment.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import threading

from inference.engines.vllm_args import OWNER_PID


class EndsWithRoom:
    """Mixed into vLLM's worker; what it is for has happened on import."""


def _begin() -> None:
    owner = int(os.environ.get(OWNER_PID) or 0)
    # Linux alone can watch a process that is not its child.
    if not owner or owner == os.getpid() or not hasattr(os, "pidfd_open"):
        return
    try:
        watched = os.pidfd_open(owner)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_wait, args=(watched,), name="room", daemon=True).start()
    # A process that ends need not search its modules for garbage, which takes seconds.
    atexit.register(gc.freeze)
    if threading.current_thread() is threading.main_thread():
        # A terminal sends SIGINT to all; the room drains first, and then ends the engine.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait(watched: int) -> None:
    # A pidfd is readable once its process has ended. With several processes for a model, vLLM ends where one has.
    select.select([watched], [], [])
    os._exit(1)


_begin()
