"""Several processes behind a gateway's two addresses: who answers, and what happens while they are started anew."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from isthmus.session.v1 import session_service_pb2 as contract
from isthmus.session.v1 import session_service_pb2_grpc

from services.config import load_settings
from services.supervisor import probe
from services.supervisor.control import Answer, RenewGateways, ask
from services.supervisor.home import Home
from services.supervisor.local import held_home, plan_mesh, run_mesh
from services.supervisor.plan import GATEWAY, Probe
from services.supervisor.ports import Address
from services.supervisor.state import MeshState, ProcessPhase, ProcessState
from services.supervisor.supervisor import Supervisor
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(120)

ANY = "127.0.0.1:0"
ASK_MS_MAX = 60_000
# One for each process that closes.
RESETS_MAX = 2


async def in_mesh(path: Path, processes: int, work: Callable[[Supervisor], Awaitable[None]]) -> None:
    """Does the work while a whole mesh runs."""
    settings = load_settings(
        mesh={"home": path, "shards": 1},
        inference={"engine": "scripted"},
        gateway={"processes_count": processes},
        supervisor={"grpc": ANY, "http": ANY},
    )
    with held_home(settings) as (home, mux):
        supervisor = Supervisor(plan_mesh(settings, home), home, settings.supervisor, mux)

        async def serve(_: MeshState) -> None:
            await work(supervisor)

        await run_mesh(supervisor, serve)


def gateways(supervisor: Supervisor) -> list[ProcessState]:
    return [each for each in supervisor.state.processes if each.room == GATEWAY]


async def list_over_grpc(target: str) -> None:
    """One call over a connection of its own."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        await session_service_pb2_grpc.SessionServiceStub(channel).ListSessions(
            contract.ListSessionsRequest(), timeout=20, wait_for_ready=True
        )


async def list_over_http(url: str) -> None:
    """One request over a connection of its own."""
    async with httpx.AsyncClient(timeout=20) as client:
        (await client.get(f"{url}/v1/models")).raise_for_status()


class Callers:
    """Call over new connections, again and again, until they are told to stop.

    Where the kernel does not hand connections on (`net.ipv4.tcp_migrate_req`), one that was made in the moment in which
    a process closes is reset before anybody has read from it: that one is made again, as clients do.
    """

    def __init__(self, mesh: MeshState) -> None:
        self._calls = (partial(list_over_grpc, mesh.grpc), partial(list_over_http, mesh.http))
        self._stopped = False
        self.answered = 0
        self.reset = 0

    async def call(self) -> None:
        for make in itertools.cycle(self._calls):
            if self._stopped:
                return
            try:
                await make()
            except httpx.TransportError:
                self.reset += 1
                await make()
            self.answered += 1

    def stop(self) -> None:
        self._stopped = True


async def test_a_rolling_restart_costs_no_new_connection_its_answer(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        before, mesh = gateways(supervisor), supervisor.state
        assert [each.name for each in before] == ["gateway-0-0", "gateway-0-1"]
        # Each has addresses of its own, too, where its health and its metrics are asked for.
        addresses = {mesh.grpc, *(each.endpoint for each in before)}
        assert len(addresses) == 3
        for address in addresses:
            assert await probe.is_ready(Probe.GRPC, Address.parse(address), 5_000)
        async with httpx.AsyncClient() as client:
            for each in before:
                assert (await client.get(f"http://{each.http}/healthz")).status_code == 200
                assert "isthmus" in (await client.get(f"http://{each.http}/metrics")).text

        callers = Callers(mesh)
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(callers.call())
            await eventually(lambda: callers.answered > 10)
            answer = await asyncio.to_thread(ask, Home(tmp_path), RenewGateways(), ASK_MS_MAX)
            seen = callers.answered
            await eventually(lambda: callers.answered > seen + 10)
            callers.stop()
        assert callers.reset <= RESETS_MAX
        assert answer.reason == ""
        assert [each.name for each in answer.processes] == [each.name for each in before]
        assert not {each.pid for each in answer.processes} & {each.pid for each in before}

    await in_mesh(tmp_path, 2, work)
    assert "did not stop in time" not in Home(tmp_path).log.read_text()


async def test_one_of_two_that_dies_is_started_again_while_the_other_serves(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        dying, other = gateways(supervisor)
        os.kill(dying.pid or 0, signal.SIGKILL)
        await eventually(lambda: supervisor.process(dying.name).restarts == 1)
        await list_over_grpc(supervisor.state.grpc)
        await list_over_http(supervisor.state.http)
        await eventually(lambda: supervisor.process(dying.name).phase is ProcessPhase.READY)
        assert supervisor.process(other.name).pid == other.pid

    await in_mesh(tmp_path, 2, work)


async def test_a_gateway_of_one_process_is_not_restarted_under_its_callers(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        (before,) = gateways(supervisor)
        answer: Answer = await asyncio.to_thread(ask, Home(tmp_path), RenewGateways(), ASK_MS_MAX)
        assert "gateway.processes_count" in answer.message
        assert gateways(supervisor) == [before]
        assert before.name == "gateway-0"
        assert before.endpoint == supervisor.state.grpc

    await in_mesh(tmp_path, 1, work)
