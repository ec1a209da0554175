"""One lifecycle for every process: starting, ready, draining, stopped; and `run_room`, the main of every room."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

import structlog
import uvloop

from services import allocator, logs, telemetry
from services.config import ConfigError, Settings, load_settings

# Objects that are made between two looks of the collector; a turn makes some thousands, nearly none of them in cycles.
_YOUNG_OBJECTS: Final = 10_000

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class State(Enum):
    """Where a process stands. What may follow what is `TRANSITIONS`; nothing else changes it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


# A room that fails to start stops without ever having been ready; a second signal stops one that drains.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.STARTING: frozenset({State.READY, State.DRAINING, State.STOPPED}),
    State.READY: frozenset({State.DRAINING, State.STOPPED}),
    State.DRAINING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}

Watcher = Callable[[State], None]


class Lifecycle:
    """The state of one room and those who watch it.

    Watchers are called at once and in order, on the event loop's thread; they must not block.
    """

    def __init__(self) -> None:
        self._state = State.STARTING
        self._watchers: list[Watcher] = []

    @property
    def state(self) -> State:
        """Where the room stands now."""
        return self._state

    def watch(self, watcher: Watcher) -> None:
        """Calls the watcher with every later state."""
        self._watchers.append(watcher)

    def move(self, state: State) -> None:
        """Goes to the next state; to the present one is no move. Raises ValueError for one that may not follow."""
        if state is self._state:
            return
        if state not in TRANSITIONS[self._state]:
            raise ValueError(f"lifecycle: {self._state.value} cannot become {state.value}")
        self._state = state
        for watcher in tuple(self._watchers):
            watcher(state)


@dataclass(frozen=True, slots=True)
class RoomContext:
    """What a room is started with. `listen` and `http_listen` are `host:port`; port 0 lets the system choose.

    `shared_listen` and `shared_http_listen` are further addresses, which it serves together with other processes.
    """

    settings: Settings
    member_id: str
    listen: str
    http_listen: str | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    shared_listen: str | None = None
    shared_http_listen: str | None = None


class Room(Protocol):
    """A process of the mesh. Each method is called once, in this order; `stop` also after a failed `start`."""

    name: str

    async def start(self) -> None:
        """Binds, warms, announces itself and moves the lifecycle to READY."""

    async def drain(self) -> None:
        """Moves the lifecycle to DRAINING, refuses what is new and finishes what is open, within `rpc.drain_ms_max`."""

    async def stop(self) -> None:
        """Lets go of everything and moves the lifecycle to STOPPED. Whatever is still open is cancelled."""


RoomFactory = Callable[[RoomContext], Room]


def run_room(factory: RoomFactory, argv: Sequence[str] | None = None) -> int:
    """The main of a room's process: returns the exit code, 0 after a clean stop.

    Flags are --member, --listen, --weight and, for a room with an HTTP edge, --http; --shared-listen and --shared-http
    are addresses that several processes of a room serve together. Settings come from the file that ISTHMUS_CONFIG
    names. SIGTERM or SIGINT drains and stops; a second one stops at once.
    """
    arguments = _parse(argv)
    try:
        flags: dict[str, Any] = {} if arguments.weight is None else {"membership": {"weight": arguments.weight}}
        settings = load_settings(**flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    context = RoomContext(
        settings,
        arguments.member,
        arguments.listen,
        arguments.http,
        shared_listen=arguments.shared_listen,
        shared_http_listen=arguments.shared_http,
    )
    allocator.bound()
    return uvloop.run(_run(factory, context))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A room of the Isthmus mesh; `isthmus up` starts them all.")
    parser.add_argument("--member", required=True, metavar="ID", help="this process's name in the mesh")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where gRPC is served")
    parser.add_argument("--http", default=None, metavar="HOST:PORT", help="where HTTP is served, for the gateway")
    parser.add_argument(
        "--shared-listen", metavar="HOST:PORT", help="where it serves gRPC together with others of its room"
    )
    parser.add_argument("--shared-http", metavar="HOST:PORT", help="the same for HTTP")
    parser.add_argument("--weight", type=float, metavar="W", help="its share of the sessions, against 1.0 of others")
    return parser.parse_args(argv)


async def _run(factory: RoomFactory, context: RoomContext) -> int:
    # Within the loop: a gRPC server belongs to the one that it is made in.
    room = factory(context)
    logs.configure(context.settings.telemetry, room=room.name, member_id=context.member_id)
    telemetry.configure(context.settings.telemetry, room=room.name, member_id=context.member_id)
    log = structlog.get_logger("lifecycle")
    context.lifecycle.watch(lambda state: log.info("state", state=state.value))
    context.lifecycle.watch(_settle_collector)
    signals = _Signals()
    signals.install()
    serving = asyncio.create_task(_serve(room, signals), name="room")
    code = EXIT_OK
    try:
        await _first(serving, signals.second)
    except Exception:
        log.exception("room failed")
        code = EXIT_FAILED
    await _cancel(serving)
    await room.stop()
    context.lifecycle.move(State.STOPPED)
    signals.remove()
    await asyncio.to_thread(telemetry.shutdown)
    return code


def _settle_collector(state: State) -> None:
    """What a room holds once it is ready stays: the collector looks at what has come since, and less often."""
    if state is State.READY:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def _serve(room: Room, signals: _Signals) -> None:
    starting = asyncio.create_task(room.start(), name="start")
    try:
        # A room that is told to go while it warms does not finish warming first.
        if await _first(starting, signals.first):
            await signals.first.wait()
            await room.drain()
    finally:
        await _cancel(starting)


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> bool:
    """Waits for the task or the event; True if the task is done. What the task raises is raised here."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(waiter)
    if task.done():
        task.result()
    return task.done()


async def _cancel(task: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Signals:
    """SIGTERM and SIGINT as two events: the first asks to drain, the second to stop."""

    _NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def install(self) -> None:
        for number in self._NUMBERS:
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def remove(self) -> None:
        for number in self._NUMBERS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
