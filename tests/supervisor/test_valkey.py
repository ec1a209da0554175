"""The Valkey of a mesh: a cluster that is the same one after any start, and one's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster

from services.config import load_settings
from services.supervisor import cluster, nodes
from services.supervisor.errors import SupervisorError, ValkeyUnusable
from services.supervisor.home import Home
from services.supervisor.local import held_home, run_mesh
from services.supervisor.plan import VALKEY
from services.supervisor.ports import Address
from services.supervisor.state import MeshState, ProcessPhase, ProcessState
from services.supervisor.supervisor import Supervisor
from services.supervisor.valkey import NODES_FILE, configuration
from tests.supervisor.conftest import STOP_S_MAX, SmallMesh, gone
from tests.supervisor.small_mesh import small_plan
from tests.support.eventually import eventually
from tests.support.processes import until
from tests.support.valkey_server import ValkeyServer

ASK_MS_MAX = 2_000
KEYS = [f"key-{number}" for number in range(60)]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[SmallMesh]:
    small = SmallMesh(tmp_path / "home", "cluster")
    yield small
    if small.supervisor is not None:
        small.end(signal.SIGTERM)


def connected(state: MeshState) -> RedisCluster:
    """A client of the cluster that mesh.json names."""
    seeds = [Address.parse(each) for each in state.valkey.removeprefix("redis+cluster://").split(",")]
    return RedisCluster(startup_nodes=[ClusterNode(each.host, each.port) for each in seeds])  # type: ignore[no-untyped-call]


def ids(home: Home) -> set[str]:
    """The nodes, as each has written itself down."""
    texts = [(home.valkey_node(number) / NODES_FILE).read_text() for number in range(cluster.NODES_COUNT)]
    return {own.id for text in texts if (own := cluster.myself(text))}


def test_a_cluster_is_the_same_one_after_a_stop_and_after_a_kill(mesh: SmallMesh) -> None:
    mesh.start()
    assert sum(each.room == VALKEY for each in mesh.state.processes) == cluster.NODES_COUNT
    with connected(mesh.state) as client:
        for key in KEYS:
            client.set(key, key)
            assert client.execute_command("WAIT", 1, ASK_MS_MAX, target_nodes=client.get_node_from_key(key)) == 1
    known, ports = ids(mesh.home), {each.endpoint for each in mesh.state.processes}

    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = mesh.state.processes
        mesh.end(number)
        until(lambda left=processes: gone(left), STOP_S_MAX, "no process is left")  # type: ignore[misc]
        mesh.start()
        assert ids(mesh.home) == known
        assert {each.endpoint for each in mesh.state.processes} != ports
        with connected(mesh.state) as client:
            assert [client.get(key) for key in KEYS] == [key.encode() for key in KEYS]


def _knows_some(home: Home) -> bool:
    return _lines(home, 0) >= 2


def _has_slots(home: Home) -> bool:
    return "0-5460" in _nodes_file(home, 0)


@pytest.mark.parametrize("moment", [_knows_some, _has_slots])
def test_a_bootstrap_that_was_killed_is_finished_by_the_next_start(
    mesh: SmallMesh, moment: Callable[[Home], bool]
) -> None:
    mesh.supervisor = mesh.spawn()
    until(lambda: moment(mesh.home), STOP_S_MAX, "the bootstrap has come that far")
    mesh.end(signal.SIGKILL)

    mesh.start()

    with connected(mesh.state) as client:
        client.set("key", "value")
    assert len(ids(mesh.home)) == cluster.NODES_COUNT


async def test_a_primary_that_is_held_down_is_replaced_and_comes_back_as_a_replica(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path}, supervisor={"valkey": "cluster"})

    async def fail_over(_: MeshState) -> None:
        names = [each.name for each in supervisor.state.processes if each.room == VALKEY]
        assert [await _role(supervisor, each) for each in names] == ["primary"] * 3 + ["replica"] * 3
        with connected(supervisor.state) as client:
            client.set("key", "value")
            await supervisor.hold("valkey-0")
            assert supervisor.process("valkey-0").phase is ProcessPhase.HELD
            await eventually(lambda: _primaries(supervisor, ["valkey-3", "valkey-4", "valkey-5"]), timeout_s=15)
            assert supervisor.process("valkey-0").phase is ProcessPhase.HELD
            supervisor.release("valkey-0")
            await eventually(lambda: _is(supervisor, "valkey-0", "replica"), timeout_s=15)
            assert client.get("key") == b"value"

    with held_home(settings) as (home, mux):
        supervisor = Supervisor(small_plan(home, settings), home, settings.supervisor, mux)
        await run_mesh(supervisor, fail_over)


async def test_a_primary_that_is_killed_is_succeeded_before_it_is_back(tmp_path: Path) -> None:
    settings = load_settings(mesh={"home": tmp_path}, supervisor={"valkey": "cluster"})

    async def succeed(state: MeshState) -> None:
        with connected(state) as client:
            primary = _owner(client, state, "key")
            replica = next(
                each for each in state.processes if each.room == VALKEY and _follows(client, each, primary.endpoint)
            )
            for number in range(50):
                client.set("key", number)
            assert client.execute_command("WAIT", 1, ASK_MS_MAX, target_nodes=client.get_node_from_key("key")) == 1
            os.kill(primary.pid or 0, signal.SIGKILL)
            # A primary that had come back as one would have kept its slots.
            await eventually(lambda: _is(supervisor, replica.name, "primary"), timeout_s=15)
            await eventually(lambda: _is(supervisor, primary.name, "replica"), timeout_s=15)
            assert client.get("key") == b"49"

    with held_home(settings) as (home, mux):
        supervisor = Supervisor(small_plan(home, settings), home, settings.supervisor, mux)
        await run_mesh(supervisor, succeed)
    assert " takes over from " in Home(tmp_path).log.read_text()


async def test_ones_own_valkey_is_used_and_not_touched(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        settings = load_settings(mesh={"home": tmp_path / "home"}, supervisor={"valkey": server.url})
        seen: list[MeshState] = []

        async def serve(state: MeshState) -> None:
            seen.append(state)

        with held_home(settings) as (home, mux):
            await run_mesh(Supervisor(small_plan(home, settings), home, settings.supervisor, mux), serve)
        assert [each.room for each in seen[0].processes] == ["tiny", "tiny"]
        assert seen[0].valkey == server.url
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.kill()


async def test_credentials_that_are_refused_are_named_without_the_password(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "isthmus", "on", ">right", "~*", "+@all")
        url = server.url.replace("redis://", "redis://isthmus:wrong-one@")
        with pytest.raises(ValkeyUnusable, match=r"isthmus:\*\*\*@.* refuses the credentials") as refused:
            await _start(tmp_path / "home", url)
        assert "wrong-one" not in str(refused.value)
        await _start(tmp_path / "home", server.url.replace("redis://", "redis://isthmus:right@"))
    finally:
        server.kill()


async def test_a_valkey_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(ValkeyUnusable, match=r"redis://me:\*\*\*@127.0.0.1:1/0 cannot be reached"):
        await _start(tmp_path / "home", "redis://me:secret@127.0.0.1:1/0")


async def test_a_cluster_that_does_not_become_whole_says_what_is_missing(tmp_path: Path) -> None:
    settings = load_settings(
        mesh={"home": tmp_path},
        # Nobody forms a cluster within the least time that a stage has.
        supervisor={"valkey": "cluster", "start_ms_max": 1_000},
    )
    with held_home(settings) as (home, mux), pytest.raises(SupervisorError, match=r"node \d|not ready after"):
        await run_mesh(Supervisor(small_plan(home, settings), home, settings.supervisor, mux), _unreachable)


@pytest.mark.parametrize("choice", ["always", "no"])
def test_the_log_goes_to_the_disk_as_configured(choice: str) -> None:
    settings = load_settings(supervisor={"appendfsync": choice}).supervisor
    text = configuration(Path("/data"), Address("127.0.0.1", 1), settings)
    assert f"appendfsync {choice}\n" in text
    assert "appendonly yes\n" in text
    assert "maxmemory-policy noeviction\n" in text
    assert "cluster-enabled" not in text
    assert load_settings().supervisor.appendfsync == "always"


async def _start(path: Path, url: str) -> None:
    settings = load_settings(mesh={"home": path}, supervisor={"valkey": url})

    async def serve(_: MeshState) -> None:
        pass

    with held_home(settings) as (home, mux):
        await run_mesh(Supervisor(small_plan(home, settings), home, settings.supervisor, mux), serve)


async def _unreachable(_: MeshState) -> None:
    raise AssertionError("the mesh must not be ready")


def _owner(client: RedisCluster, state: MeshState, key: str) -> ProcessState:
    port = client.get_node_from_key(key).port  # type: ignore[no-untyped-call]
    return next(each for each in state.processes if each.room == VALKEY and each.endpoint.endswith(f":{port}"))


def _follows(client: RedisCluster, process: ProcessState, primary: str) -> bool:
    address = Address.parse(process.endpoint)
    node = client.get_node(address.host, address.port)  # type: ignore[no-untyped-call]
    return cluster.follows(client.info("replication", target_nodes=node), Address.parse(primary))


async def _role(supervisor: Supervisor, name: str) -> str | None:
    return await nodes.role(Address.parse(supervisor.process(name).endpoint), ASK_MS_MAX)


async def _is(supervisor: Supervisor, name: str, role: str) -> bool:
    return await _role(supervisor, name) == role


async def _primaries(supervisor: Supervisor, names: list[str]) -> bool:
    """Whether one of them has been voted in."""
    return "primary" in [await _role(supervisor, each) for each in names]


def _lines(home: Home, number: int) -> int:
    return len(cluster.parse(_nodes_file(home, number)))


def _nodes_file(home: Home, number: int) -> str:
    path = home.valkey_node(number) / NODES_FILE
    return path.read_text() if path.exists() else ""
