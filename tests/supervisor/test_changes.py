"""Processes that come and go while a mesh runs, by the supervisor's own methods and through its door."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.config import load_settings
from services.supervisor import identity, probe
from services.supervisor.control import AddShard, Answer, DrainShard, Request, ask
from services.supervisor.errors import StartFailed, SupervisorError, UnknownProcess
from services.supervisor.home import Home
from services.supervisor.local import held_home, run_mesh
from services.supervisor.plan import SHARD, Plan, Probe, ProcessSpec
from services.supervisor.ports import Address
from services.supervisor.shards import Shards
from services.supervisor.state import MeshState, ProcessPhase, read
from services.supervisor.supervisor import Supervisor
from tests.supervisor.small_mesh import small_plan, tiny_spec
from tests.support.eventually import eventually
from tests.support.ports import free_port

ASK_MS_MAX = 20_000


async def in_mesh(path: Path, work: Callable[[Supervisor], Awaitable[None]], *, as_shards: bool = False) -> None:
    """Does the work while a mesh of Valkey and two tiny rooms runs."""
    settings = load_settings(mesh={"home": path}, supervisor={"control_connections_count_max": 1})
    with held_home(settings) as (home, mux):
        plan = small_plan(home, settings)
        supervisor = Supervisor(_as_shards(plan) if as_shards else plan, home, settings.supervisor, mux)

        async def serve(_: MeshState) -> None:
            await work(supervisor)

        await run_mesh(supervisor, serve)


def _as_shards(plan: Plan) -> Plan:
    """The tiny rooms in the place of shards."""
    specs = [replace(each, room=SHARD) if each.room == "tiny" else each for each in plan.processes]
    return replace(plan, processes=tuple(specs))


def third(supervisor: Supervisor, *extra: str) -> ProcessSpec:
    return tiny_spec(supervisor.home, 2, Address("127.0.0.1", free_port()), extra)


async def answers(spec: ProcessSpec) -> bool:
    return await probe.is_ready(Probe.GRPC, spec.address, ASK_MS_MAX)


async def test_what_is_added_is_kept_alive_and_what_is_retired_is_not(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        spec = third(supervisor)
        await supervisor.add(spec)
        assert await answers(spec)
        assert [each.name for each in read_state(tmp_path).processes] == ["valkey", "tiny-0", "tiny-1", "tiny-2"]

        os.kill(supervisor.process("tiny-2").pid or 0, 9)
        await eventually(lambda: supervisor.process("tiny-2").restarts == 1)
        await eventually(lambda: supervisor.process("tiny-2").phase is ProcessPhase.READY)

        last = supervisor.process("tiny-2")
        await supervisor.retire("tiny-2")
        assert identity.started(last.pid or 0) != last.started
        assert [each.name for each in read_state(tmp_path).processes] == ["valkey", "tiny-0", "tiny-1"]
        with pytest.raises(UnknownProcess, match="tiny-0, tiny-1"):
            await supervisor.retire("tiny-2")

    await in_mesh(tmp_path, work)
    # It drained; nobody had to kill it.
    assert "did not stop in time" not in Home(tmp_path).log.read_text()


async def test_what_cannot_be_added_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        before = supervisor.state.processes
        with pytest.raises(StartFailed, match="tiny-2 exited with code 3, 3 times"):
            await supervisor.add(third(supervisor, "--fail-with", "3"))
        with pytest.raises(SupervisorError, match="tiny-1: there is a process of this name already"):
            await supervisor.add(replace(third(supervisor), name="tiny-1"))
        assert supervisor.state.processes == before

    await in_mesh(tmp_path, work)


async def test_what_is_held_stays_down_until_it_is_released(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        before = supervisor.process("tiny-1")
        await supervisor.hold("tiny-1")
        assert supervisor.process("tiny-1").phase is ProcessPhase.HELD
        assert identity.started(before.pid or 0) != before.started
        # Another one that dies is restarted meanwhile, and this one is not.
        os.kill(supervisor.process("tiny-0").pid or 0, 9)
        await eventually(lambda: supervisor.process("tiny-0").restarts == 1)
        await eventually(lambda: supervisor.process("tiny-0").phase is ProcessPhase.READY)
        assert supervisor.process("tiny-1").phase is ProcessPhase.HELD

        supervisor.release("tiny-1")
        await eventually(lambda: supervisor.process("tiny-1").phase is ProcessPhase.READY)
        assert supervisor.process("tiny-1").endpoint == before.endpoint
        await supervisor.hold("tiny-0")

    # A mesh with a process held down stops like any other.
    await in_mesh(tmp_path, work)


async def test_a_process_that_waits_to_be_restarted_can_be_held(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        os.kill(supervisor.process("tiny-1").pid or 0, 9)
        await eventually(lambda: supervisor.process("tiny-1").phase is ProcessPhase.WAITING)
        await supervisor.hold("tiny-1")
        assert supervisor.process("tiny-1").phase is ProcessPhase.HELD
        supervisor.release("tiny-1")
        await eventually(lambda: supervisor.process("tiny-1").phase is ProcessPhase.READY)

    await in_mesh(tmp_path, work)


async def test_the_last_shard_that_serves_is_not_drained(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        shards = Shards(supervisor)
        await supervisor.hold("tiny-1")
        with pytest.raises(SupervisorError, match="tiny-0 is the last shard that serves; add another one first"):
            await shards.drain("tiny-0")
        with pytest.raises(UnknownProcess, match="expected one of tiny-0, tiny-1"):
            await shards.drain("valkey")
        assert (await shards.drain("tiny-1")).name == "tiny-1"
        assert [each.name for each in supervisor.state.processes] == ["valkey", "tiny-0"]

    await in_mesh(tmp_path, work, as_shards=True)


async def test_two_drains_at_once_leave_one_shard(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        shards = Shards(supervisor)
        done = await asyncio.gather(shards.drain("tiny-0"), shards.drain("tiny-1"), return_exceptions=True)
        assert sorted(isinstance(each, SupervisorError) for each in done) == [False, True]
        assert sum(each.room == SHARD for each in supervisor.state.processes) == 1

    await in_mesh(tmp_path, work, as_shards=True)


async def test_the_door_is_its_users_alone_and_closed_after_the_stop(tmp_path: Path) -> None:
    # Longer than the name of a socket may be.
    path = tmp_path / ("long" * 30)

    async def work(supervisor: Supervisor) -> None:
        mode = supervisor.home.door.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        refused = await _ask(supervisor, DrainShard("tiny-9"))
        assert refused.reason == "UNKNOWN_PROCESS"
        assert "tiny-0, tiny-1" in refused.message
        drained = await _ask(supervisor, DrainShard("tiny-1"))
        assert drained.process is not None
        assert drained.process.name == "tiny-1"
        assert (await _ask(supervisor, DrainShard("tiny-0"))).reason == "SUPERVISOR"

    await in_mesh(path, work, as_shards=True)
    assert not Home(path).door.exists()
    with pytest.raises(OSError, match="No such file"):
        ask(Home(path), AddShard(), ASK_MS_MAX)


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"\n", "INVALID_REQUEST"), (b'{"ask": "burn"}\n', "INVALID_REQUEST"), (b"x" * 5_000, "INVALID_REQUEST")],
)
async def test_the_door_refuses_what_it_does_not_know(tmp_path: Path, line: bytes, said: str) -> None:
    async def work(supervisor: Supervisor) -> None:
        reader, writer = await asyncio.open_unix_connection(supervisor.home.door)
        writer.write(line)
        assert said.encode() in await reader.readline()
        writer.close()

    await in_mesh(tmp_path, work)


async def test_the_door_has_a_bound_on_callers(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        _, idle = await asyncio.open_unix_connection(supervisor.home.door)
        try:
            assert (await _ask(supervisor, DrainShard("tiny-1"))).reason == "OVERLOADED"
        finally:
            idle.close()

        async def let_in() -> bool:
            return (await _ask(supervisor, DrainShard("tiny-9"))).reason == "UNKNOWN_PROCESS"

        await eventually(let_in)

    await in_mesh(tmp_path, work, as_shards=True)


async def _ask(supervisor: Supervisor, request: Request) -> Answer:
    return await asyncio.to_thread(ask, supervisor.home, request, ASK_MS_MAX)


def read_state(path: Path) -> MeshState:
    found = read(Home(path).mesh)
    assert found is not None
    return found
