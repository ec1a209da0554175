"""One process: started under the supervisor's life, its output read line by line, its end waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from services.supervisor import identity, launch
from services.supervisor.logline import LineSplitter
from services.supervisor.logmux import LogMux
from services.supervisor.plan import ProcessSpec

_READ_BYTES = 1 << 16
# What a dead process printed is at hand at once; only a grandchild could keep its pipe open for longer.
_DRAIN_S_MAX = 0.5


class Process:
    """A running process. Made by `spawn`; `exited` is done, with the exit code, once it is gone and its log read.

    The exit is awaited by a thread of its own rather than by asyncio's subprocesses, which on some versions wait until
    every copy of the output pipe is closed, a grandchild's too.
    """

    def __init__(self, spec: ProcessSpec, popen: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self.pid = popen.pid
        self.started = identity.started(popen.pid) or ""
        self._popen = popen
        self._spawned = time.monotonic()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    def spawn(cls, spec: ProcessSpec, mux: LogMux, line_bytes_max: int) -> Process:
        """Starts the process. Raises OSError if that is impossible."""
        # -I -S: the launcher starts in a few milliseconds and sees nothing of the user's Python path.
        wrapped = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), *spec.argv]
        popen = subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(spec.environment),
            # A terminal's Ctrl-C is for the supervisor, which stops the processes in their order.
            start_new_session=True,
        )
        process = cls(spec, popen)
        reading = asyncio.ensure_future(process._read(mux, LineSplitter(line_bytes_max)))
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(process._finish(loop, reading))
        waiting.add_done_callback(lambda done: None if done.cancelled() else done.result())
        return process

    @property
    def uptime_ms(self) -> int:
        """Time since the start."""
        return int((time.monotonic() - self._spawned) * 1_000)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process is still there."""
        # Not Popen's own: that would reap the process under the thread that waits for it.
        with contextlib.suppress(ProcessLookupError):
            if self._popen.returncode is None:
                os.kill(self.pid, number)

    async def wait(self, timeout_s: float) -> bool:
        """True once it is gone, False if it isn't within the time."""
        done, _ = await asyncio.wait({self.exited}, timeout=max(0.0, timeout_s))
        return bool(done)

    async def _finish(self, loop: asyncio.AbstractEventLoop, reading: asyncio.Future[None]) -> None:
        gone = asyncio.Event()
        threading.Thread(target=self._await_exit, args=(loop, gone), name=f"wait-{self.spec.name}", daemon=True).start()
        await gone.wait()
        await asyncio.wait({reading}, timeout=_DRAIN_S_MAX)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        self.exited.set_result(self._popen.returncode)

    def _await_exit(self, loop: asyncio.AbstractEventLoop, gone: asyncio.Event) -> None:
        # Unreaped, the process keeps its id, so that the group is surely its own: whatever it started ends with it.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        # The loop may be closed by now, when a second signal ended the supervisor first.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(gone.set)

    async def _read(self, mux: LogMux, splitter: LineSplitter) -> None:
        pipe = self._popen.stdout
        assert pipe is not None
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(_READ_BYTES):
                for line in splitter.feed(data):
                    mux.write(self.spec.name, line)
        finally:
            for line in splitter.finish():
                mux.write(self.spec.name, line)
            transport.close()


def describe_exit(code: int) -> str:
    """How a process ended: `exited with code 3`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by {signal.Signals(-code).name}"
