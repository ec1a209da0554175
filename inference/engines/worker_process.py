"""A worker process and the requests that are in it, as seen from the engine's event loop."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from typing import Final

import structlog

from inference.engine import engine_failed
from inference.engines.wire import FRAME, Add, Cancel, FromWorker, Output, Ready, Setup, Stepped, from_worker, pack

_MODULE: Final = "inference.engines.worker"

_log = structlog.get_logger("engine worker")

# A request's outputs are bounded by its own `output_tokens_max`.
Outputs = asyncio.Queue[Output]


class WorkerProcess:
    """Made by `start`; gone for good when it dies or is stopped."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._open: dict[int, Outputs] = {}
        self._numbers = 0
        # Messages that came from it: one a step.
        self.steps = 0
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, setup: Setup) -> WorkerProcess:
        """A worker that has loaded its model. Raises ENGINE_FAILED when it ends before that."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", _MODULE, str(theirs.fileno()), pass_fds=(theirs.fileno(),)
            )
        worker = cls(process, *await asyncio.open_connection(sock=ours))
        try:
            worker._writer.write(pack(setup))
            if not isinstance(await worker._receive(), Ready):
                raise engine_failed("the engine's worker ended while it loaded the model; its log says why")
        except BaseException:
            await worker.stop()
            raise
        worker._reading = asyncio.create_task(worker._read(), name="engine outputs")
        return worker

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._reading is not None and not self._reading.done()

    @property
    def running(self) -> int:
        """Requests that it has not let go of yet, those among them that nobody waits for any more."""
        return len(self._open)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def register(self) -> tuple[int, Outputs]:
        """A number for a new request, and where its outputs will come."""
        self._numbers += 1
        outputs = self._open[self._numbers] = Outputs()
        return self._numbers, outputs

    async def add(self, request: Add) -> None:
        """Hands over a registered request. A worker that is dead by now has answered it with an error already."""
        if self.alive:
            self._writer.write(pack(request))
            await self._writer.drain()

    def cancel(self, number: int) -> None:
        """Has the worker let go of a request."""
        if number in self._open and self.alive:
            self._writer.write(pack(Cancel(number)))

    async def stop(self) -> None:
        """Ends it at once: it holds nothing that is worth a farewell."""
        self._stopping = True
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reading is not None:
            await self._reading
        self._writer.close()
        # What was still to be sent went nowhere, which is no news.
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def _read(self) -> None:
        while isinstance(message := await self._receive(), Stepped):
            self.steps += 1
            for output in message.outputs:
                self._put(output)
        if not self._stopping:
            _log.warning("the worker has ended", pid=self.pid, requests=len(self._open))
        for number in tuple(self._open):
            self._put(Output(number, error="its worker process ended"))

    def _put(self, output: Output) -> None:
        over = bool(output.finish or output.error)
        outputs = self._open.pop(output.number, None) if over else self._open.get(output.number)
        if outputs is not None:
            outputs.put_nowait(output)

    async def _receive(self) -> FromWorker | None:
        try:
            header = await self._reader.readexactly(FRAME.size)
            message: FromWorker = from_worker.decode(await self._reader.readexactly(FRAME.unpack(header)[0]))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message
