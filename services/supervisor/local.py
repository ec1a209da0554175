"""A whole mesh on this machine, from settings to a clean stop. `isthmus up` is this and its output."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import SystemRandom
from typing import Final

from services.config import Settings
from services.cores import cores_count
from services.supervisor import leftovers, ports, state, valkey
from services.supervisor.control import Door
from services.supervisor.gateways import Gateways
from services.supervisor.home import Home, HomeLock
from services.supervisor.logline import LogLine
from services.supervisor.logmux import OWN_NAME, Echo, LogMux, RotatingFile
from services.supervisor.plan import (
    Pair,
    Plan,
    RoomPlan,
    ValkeyPlan,
    child_environment,
    inner_addresses,
    mesh_plan,
    rooms,
)
from services.supervisor.ports import Address
from services.supervisor.replicas import allowances, environments, with_all_named, with_cores_shared
from services.supervisor.shards import Shards
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor

_LOOPBACK: Final = "127.0.0.1"
# A terminal that was closed is a reason to stop, unless `nohup` says otherwise.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Serve = Callable[[MeshState], Awaitable[None]]


@contextlib.contextmanager
def held_home(settings: Settings, echo: Echo | None = None) -> Iterator[tuple[Home, LogMux]]:
    """The home, created, locked and rid of a killed supervisor's processes, with its log open.

    Raises HomeInUse if another supervisor has it.
    """
    home = Home(settings.mesh.home.expanduser().absolute())
    home.create()
    limits = settings.supervisor
    with HomeLock(home):
        file = RotatingFile(home.log, limits.log_bytes_max, limits.log_files_count_max)
        with contextlib.closing(LogMux(file, echo)) as mux:
            _end_leftovers(home, mux)
            yield home, mux


def plan_mesh(settings: Settings, home: Home) -> Plan:
    """Chooses the ports, writes the rooms' settings and Valkey's configuration, and plans the processes.

    Raises AddressTaken if one of the two addresses that users see cannot be had.
    """
    settings = with_all_named(settings)
    limits = settings.supervisor
    names = rooms(settings.mesh.shards, settings.mesh.replicas)
    valkey_count = valkey.ports_count(valkey.mode_of(limits.valkey))
    doors_count = 2 * settings.mesh.gateways
    behind_count = _behind_count(settings)
    count = valkey_count + doors_count + 2 * sum(behind_count) + settings.mesh.replicas + len(names)
    free = ports.free_ports(_LOOPBACK, count, limits.port_min, limits.port_max, SystemRandom())
    supply = iter(free[valkey_count:])
    gateways = _gateways(settings, list(itertools.islice(supply, doors_count)))
    behind = [[_pair(supply) for _ in range(count)] for count in behind_count]
    metrics = [Address(_LOOPBACK, port) for port in itertools.islice(supply, settings.mesh.replicas)]
    environment = child_environment(os.environ, str(home.settings))
    store = valkey.prepare(home, settings, _LOOPBACK, free[:valkey_count], environment)
    _write_settings(with_cores_shared(settings, cores_count()), home, store)
    return mesh_plan(
        RoomPlan(sys.executable, environment, allowances(settings), environments(settings)),
        store,
        gateways=gateways,
        inner=inner_addresses(names, _LOOPBACK, list(supply)),
        metrics=metrics,
        behind=behind,
    )


async def run_mesh(supervisor: Supervisor, serve: Serve) -> None:
    """Runs until `serve`, called with the state once all is ready, returns, or a signal asks to stop.

    SIGINT, SIGTERM and SIGHUP stop in order, a second one kills. What `start` or `serve` raise is raised here, after
    the stop.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            supervisor.kill()
        asked.set()

    heard = [each for each in _SIGNALS if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, on_signal)
    try:
        await _until(asked, _start_and_serve(supervisor, serve))
    finally:
        await supervisor.stop()
        for number in heard:
            loop.remove_signal_handler(number)


async def _start_and_serve(supervisor: Supervisor, serve: Serve) -> None:
    await supervisor.start()
    async with Door(supervisor.home, Shards(supervisor), Gateways(supervisor), supervisor.settings):
        await serve(supervisor.state)


async def _until(asked: asyncio.Event, work: Awaitable[None]) -> None:
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for each in (working, waiting):
            each.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _end_leftovers(home: Home, mux: LogMux) -> None:
    left = state.read(home.mesh)
    ended = leftovers.end(left.processes) if left is not None else []
    if ended:
        names = ", ".join(f"{each.name} (pid {each.pid})" for each in ended)
        mux.say(OWN_NAME, LogLine("warning", f"ended what a killed supervisor had left running: {names}"))
    home.mesh.unlink(missing_ok=True)


def _gateways(settings: Settings, free: Sequence[int]) -> list[tuple[Address, Address]]:
    """The gateways' gRPC and HTTP addresses: the first one's as the user chose them, the others' beside it."""
    limits = settings.supervisor
    http = _chosen("--http", Address.parse(limits.http), free[0])
    grpc = _chosen("--grpc", Address.parse(limits.grpc), free[1])
    pairs = zip(free[2::2], free[3::2], strict=True)
    others = [(Address(grpc.host, first), Address(http.host, second)) for first, second in pairs]
    return [(grpc, http), *others]


def _behind_count(settings: Settings) -> list[int]:
    """How many processes serve each gateway's addresses together; nothing where each is served by one."""
    count = settings.gateway.processes_count
    return [count] * settings.mesh.gateways if count > 1 else []


def _pair(supply: Iterator[int]) -> Pair:
    return Address(_LOOPBACK, next(supply)), Address(_LOOPBACK, next(supply))


def _chosen(option: str, address: Address, free_port: int) -> Address:
    chosen = address if address.port else Address(address.host, free_port)
    ports.check_free(option, chosen)
    return chosen


def _write_settings(settings: Settings, home: Home, store: ValkeyPlan) -> None:
    """Without the defaults: what nobody has set, rooms may choose by the machine that they find."""
    home.settings.touch(mode=0o600)
    written = settings.model_copy(update={"valkey": store.settings})
    home.settings.write_text(written.model_dump_json(indent=2, exclude_unset=True))
