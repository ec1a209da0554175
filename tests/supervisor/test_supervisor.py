"""What a supervisor promises: one on a home, what dies comes back, nothing stays behind, no data is lost."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import redis

from services.config import SupervisorSettings, load_settings
from services.supervisor import probe
from services.supervisor.errors import StartFailed
from services.supervisor.home import Home
from services.supervisor.local import held_home, run_mesh
from services.supervisor.plan import Allowance, Probe
from services.supervisor.ports import Address
from services.supervisor.state import MeshState, ProcessPhase
from services.supervisor.supervisor import Supervisor
from tests.supervisor.conftest import STOP_S_MAX, SmallMesh, gone
from tests.supervisor.small_mesh import small_plan
from tests.support.eventually import eventually

# Beyond the least that the supervisor gives a start and the stages of a stop.
SLOW = ("--slow", "1500")


def test_a_second_start_on_the_same_home_is_refused(mesh: SmallMesh) -> None:
    mesh.start()
    assert mesh.supervisor is not None

    second = mesh.spawn()
    _, message = second.communicate(timeout=STOP_S_MAX)

    assert second.returncode == 1
    assert message.startswith("HOME_IN_USE")
    assert f"pid {mesh.supervisor.pid}" in message
    assert str(mesh.home.path) in message
    assert mesh.state.phase is ProcessPhase.READY


def test_a_stale_lock_and_state_do_not_hinder(mesh: SmallMesh) -> None:
    mesh.home.create()
    mesh.home.lock.write_text("999999\n")
    mesh.home.mesh.write_text("half a fi")

    mesh.start()

    assert mesh.supervisor is not None
    assert mesh.state.pid == mesh.supervisor.pid


def test_a_clean_stop_leaves_no_process_and_no_state(mesh: SmallMesh) -> None:
    mesh.start()
    processes = mesh.state.processes
    assert len(processes) == 3
    assert not gone(processes)

    assert mesh.end(signal.SIGTERM) == 0

    assert gone(processes)
    assert not mesh.home.mesh.exists()
    log = mesh.home.log.read_text()
    # The rooms have gone before their Valkey, and nobody had to be killed.
    assert log.rindex("tiny-1 ") < log.index("bye bye")
    assert "killed" not in log


@pytest.mark.parametrize("name", ["tiny-1", "valkey"])
async def test_what_is_killed_comes_back_on_the_same_port(mesh: SmallMesh, name: str) -> None:
    mesh.start()
    before = mesh.process(name)
    bystander = mesh.process("tiny-0")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    def restarted() -> bool:
        now = mesh.process(name)
        return now.phase is ProcessPhase.READY and now.restarts == 1

    await eventually(restarted)

    after = mesh.process(name)
    assert after.pid != before.pid
    assert after.endpoint == before.endpoint
    kind = Probe.VALKEY if name == "valkey" else Probe.GRPC
    assert await probe.is_ready(kind, Address.parse(after.endpoint), 2_000)
    assert mesh.process("tiny-0") == bystander


async def test_killing_the_supervisor_orphans_nothing_and_loses_nothing(mesh: SmallMesh) -> None:
    mesh.start()
    processes = mesh.state.processes
    with redis.Redis.from_url(mesh.state.valkey) as client:
        client.set("acknowledged", "kept")

    assert mesh.end(signal.SIGKILL) == -signal.SIGKILL
    await eventually(lambda: gone(processes))
    mesh.start()

    with redis.Redis.from_url(mesh.state.valkey) as client:
        assert client.get("acknowledged") == b"kept"


async def test_a_second_signal_kills(mesh: SmallMesh) -> None:
    mesh.start()
    processes = mesh.state.processes
    stuck = mesh.process("tiny-0")
    assert stuck.pid is not None
    assert mesh.supervisor is not None
    os.kill(stuck.pid, signal.SIGSTOP)
    mesh.supervisor.send_signal(signal.SIGINT)
    await eventually(lambda: mesh.state.phase is ProcessPhase.STOPPING)

    assert mesh.end(signal.SIGINT) == 0

    assert gone(processes)


async def test_a_room_that_never_starts_is_named_with_its_last_words(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path})
    with held_home(settings) as (home, mux):
        supervisor = Supervisor(small_plan(home, settings, ["--fail-with", "3"]), home, settings.supervisor, mux)

        with pytest.raises(StartFailed) as failed:
            await run_mesh(supervisor, _unreachable)

    assert "tiny-1 exited with code 3, 3 times" in str(failed.value)
    assert "cannot go on like this" in str(failed.value)
    assert not Home(tmp_path).mesh.exists()


async def test_a_process_that_will_not_stop_is_killed_in_time(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path}, supervisor={"drain_ms_max": 200})
    seen: list[MeshState] = []

    async def freeze(state: MeshState) -> None:
        seen.append(state)
        frozen = next(each for each in state.processes if each.name == "tiny-0")
        os.kill(frozen.pid or 0, signal.SIGSTOP)

    with held_home(settings) as (home, mux):
        await run_mesh(Supervisor(small_plan(home, settings), home, settings.supervisor, mux), freeze)

    assert gone(seen[0].processes)
    assert "tiny-0 did not stop in time and is killed" in Home(tmp_path).log.read_text()


async def test_what_a_process_is_allowed_comes_on_top_of_the_supervisors_own_bounds(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path}, supervisor={"start_ms_max": 1_000, "drain_ms_max": 0})
    allowance = Allowance(start_ms=60_000, stop_ms=60_000, section="tiny")
    served: list[MeshState] = []

    async def serve(state: MeshState) -> None:
        served.append(state)

    with held_home(settings) as (home, mux):
        plan = small_plan(home, settings, SLOW, allowance)
        await run_mesh(Supervisor(plan, home, settings.supervisor, mux), serve)

    assert gone(served[0].processes)
    assert "tiny-1 did not stop in time" not in Home(tmp_path).log.read_text()


async def test_who_is_not_ready_in_time_is_named_with_the_keys_of_that_time(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path}, supervisor={"start_ms_max": 1_000})
    for allowance, text in (
        (Allowance(), "1000 ms (supervisor.start_ms_max)"),
        (Allowance(500, 0, "tiny"), "1500 ms (supervisor.start_ms_max + tiny.start_ms_max)"),
    ):
        with held_home(settings) as (home, mux):
            plan = small_plan(home, settings, ("--slow", "600000"), allowance)
            with pytest.raises(StartFailed, match=re.escape(f"was not ready after {text}")):
                await run_mesh(Supervisor(plan, home, settings.supervisor, mux), _unreachable)


async def _unreachable(_: MeshState) -> None:
    raise AssertionError("the mesh must not be ready")


def test_the_defaults_bound_a_restart_storm() -> None:
    limits = SupervisorSettings()
    assert limits.restart_delay_ms_min == 100
    assert limits.restart_delay_ms_max < limits.restart_healthy_ms
