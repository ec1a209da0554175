"""`isthmus bench jobs`: turns in the background while gateways are killed; what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, operation_pb2, session_service_pb2, session_service_pb2_grpc

from services.cli.bench import machine
from services.cli.bench.crowd import each
from services.cli.bench.jobs_plan import Found, JobsPlan, fate, tally, verdict
from services.cli.bench.patience import Patience
from services.cli.bench.turns import Progress
from services.errors import from_rpc_error, reason_name
from services.supervisor import state
from services.supervisor.home import Home
from services.supervisor.state import MeshState, ProcessPhase

T = TypeVar("T")
_CALLS_CONCURRENT: Final = 32
_CALL_S_MAX: Final = 30.0
_PAGE_COUNT: Final = 1_000
_WAIT_POLL_S: Final = 0.5
# Nothing ended for so long: what is left is lost.
_STALL_S_MAX: Final = 120.0


async def measure(mesh: MeshState, plan: JobsPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh of `plan.sections()`."""
    described = machine.describe()
    async with _doors([each.endpoint for each in mesh.processes if each.room == "gateway"]) as doors:
        killer = _Killer(mesh, Random(plan.seed), plan.kill_every_s)  # noqa: S311
        started = time.perf_counter()
        async with killer.at_work():
            await each(range(plan.count), doors.submit, _CALLS_CONCURRENT, partial(_shown, progress, "submitted", plan))
            submitted_s = time.perf_counter() - started
            await _ended(doors, plan, progress)
            ended_s = time.perf_counter() - started
        dead = await doors.dead()
        look = partial(_looked, doors, dead)
        fates = await each(range(plan.count), look, _CALLS_CONCURRENT, partial(_shown, progress, "checked", plan))
    figures = {
        "machine": described,
        "jobs": plan.count,
        "gateways": plan.gateways,
        "kills": killer.count,
        **tally(fates),
        "dead_reasons": sorted(set(dead.values())),
        "submitted_per_s": round(plan.count / submitted_s, 1),
        "ended_per_s": round(plan.count / ended_s, 1),
        "seconds": round(ended_s, 1),
        "refusals": dict(doors.patience.refusals),
    }
    return {**figures, "problems": verdict(figures)}


class _Doors:
    """All gateways, each asked in its turn; a call that one is lost with is made again at the next."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._stubs = [session_service_pb2_grpc.SessionServiceStub(channel) for channel in channels]
        self._operations = [operations_pb2_grpc.OperationsStub(channel) for channel in channels]
        self._turn = count()
        self.patience = Patience()

    async def submit(self, number: int) -> None:
        """Makes the session and leaves its turn to the mesh, however often that has to be said."""
        await self._asked(lambda at: self._create(at, _session(number)))
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=f"Job {number}.")
        request = session_service_pb2.RunTurnRequest(
            session=f"sessions/{_session(number)}", request_id=f"job-{number}", messages=[message]
        )
        await self._asked(lambda at: self._stubs[at].SubmitTurn(request, timeout=_CALL_S_MAX))

    async def live_count(self) -> int:
        """Jobs that wait or run, as far as a page tells."""
        return len((await self._listed("LIVE")).operations)

    async def dead(self) -> dict[str, str]:
        """The reason of each dead letter, by its session."""
        found: dict[str, str] = {}
        token = ""
        while True:
            page = await self._listed("DEAD", token)
            for operation in page.operations:
                metadata = operation_pb2.TurnOperationMetadata()
                operation.metadata.Unpack(metadata)
                found[metadata.turn.split("/")[1]] = reason_name(metadata.last_error.reason)
            token = page.next_page_token
            if not token:
                return found

    async def found(self, number: int, dead_reason: str) -> Found:
        """What the session of a job holds."""
        parent = f"sessions/{_session(number)}"
        turns = session_service_pb2.ListTurnsRequest(parent=parent, page_size=_PAGE_COUNT)
        log = session_service_pb2.ListFragmentsRequest(parent=parent, page_size=_PAGE_COUNT)
        listed = await self._asked(lambda at: self._stubs[at].ListTurns(turns, timeout=_CALL_S_MAX))
        fragments = await self._asked(lambda at: self._stubs[at].ListFragments(log, timeout=_CALL_S_MAX))
        return Found(listed.turns, fragments.fragments, dead_reason)

    async def _listed(self, shelf: str, token: str = "") -> operations_pb2.ListOperationsResponse:
        request = operations_pb2.ListOperationsRequest(
            filter=f"state = {shelf}", page_size=_PAGE_COUNT, page_token=token
        )
        return await self._asked(lambda at: self._operations[at].ListOperations(request, timeout=_CALL_S_MAX))

    async def _create(self, at: int, session: str) -> None:
        try:
            request = session_service_pb2.CreateSessionRequest(session_id=session)
            await self._stubs[at].CreateSession(request, timeout=_CALL_S_MAX)
        except grpc.aio.AioRpcError as error:
            # Made by an attempt whose answer was lost: nobody else makes them.
            if from_rpc_error(error).reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
                raise

    async def _asked(self, call: Callable[[int], Awaitable[T]]) -> T:
        return await self.patience.done(lambda: self._somewhere(call))

    async def _somewhere(self, call: Callable[[int], Awaitable[T]]) -> T:
        """What the first gateway that is there answers; the last one's error where none is."""
        for _ in self._stubs[1:]:
            try:
                return await call(next(self._turn) % len(self._stubs))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
        return await call(next(self._turn) % len(self._stubs))


class _Killer:
    """Kills a gateway at random, again and again; the mesh's supervisor starts it anew."""

    def __init__(self, mesh: MeshState, random: Random, every_s: float) -> None:
        self._file = Home(Path(mesh.home)).mesh
        self._random = random
        self._every_s = every_s
        self.count = 0

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Kills while inside."""
        task = asyncio.create_task(self._kill()) if self._every_s else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            now = state.read(self._file)
            alive = [
                each.pid
                for each in (now.processes if now else ())
                if each.room == "gateway" and each.phase is ProcessPhase.READY and each.pid and each.alive()
            ]
            if alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(alive), signal.SIGKILL)
                    self.count += 1


async def _ended(doors: _Doors, plan: JobsPlan, progress: Progress) -> None:
    """Returns when no job is live any more, or none has ended for too long: the sessions will tell."""
    least, since = plan.count, time.monotonic()
    while True:
        live = await doors.live_count()
        progress("ended", plan.count - live, plan.count)
        if live < least:
            least, since = live, time.monotonic()
        # A page tells of so many at most.
        is_stalled = live < _PAGE_COUNT and time.monotonic() - since > _STALL_S_MAX
        if not live or is_stalled:
            return
        await asyncio.sleep(_WAIT_POLL_S)


async def _looked(doors: _Doors, dead: dict[str, str], number: int) -> str:
    return fate(await doors.found(number, dead.get(_session(number), "")))


def _shown(progress: Progress, stage: str, plan: JobsPlan, done: int) -> None:
    progress(stage, done, plan.count)


def _session(number: int) -> str:
    return f"job-{number:06d}"


@asynccontextmanager
async def _doors(targets: Sequence[str]) -> AsyncIterator[_Doors]:
    # One that was killed is soon back at its address: no long wait before it is tried again.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options)) for target in targets
        ]
        yield _Doors(channels)
