"""A mesh on a Valkey of one's own behind TLS and an ACL, one node and a cluster: all that it does runs over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import trustme
from docket import Worker
from isthmus.session.v1 import turn_pb2
from isthmus.session.v1.session_service_pb2 import CancelTurnRequest, DeleteSessionRequest

from services import jobs
from services.config import Settings
from services.valkey import Ack, Acknowledger, Script, command, connect, primaries
from tests.gateway.client import connected, turn_request
from tests.jobs.conftest import jobs_at, turn_of
from tests.support.mesh import changed, running_mesh
from tests.support.tls_proxy import TlsProxy
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.valkey_server import ValkeyServer
from tests.support.valkey_tls import HOST, Paths, credentials, url_of, user, written

KEYS: Final = [f"isthmus:{{key-{number}}}" for number in range(24)]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def paths(authority: trustme.CA, tmp_path: Path) -> Paths:
    return written(authority, tmp_path)


@dataclass(frozen=True, slots=True)
class Behind:
    """Settings of a Valkey behind TLS, and the proxies before its nodes."""

    settings: Settings
    proxies: list[TlsProxy]


@pytest_asyncio.fixture(params=["node", "cluster"])
async def behind(request: pytest.FixtureRequest, authority: trustme.CA, paths: Paths) -> AsyncIterator[Behind]:
    """A node, or a cluster whose nodes announce nothing but ports of TLS; the URL names one of them."""
    is_cluster = request.param == "cluster"
    base: Settings = request.getfixturevalue("cluster_settings" if is_cluster else "settings")
    server: ValkeyCluster | ValkeyServer = request.getfixturevalue("valkey_cluster" if is_cluster else "valkey_server")
    nodes: list[Any] = server.nodes if isinstance(server, ValkeyCluster) else [server]
    ports = [node.port for node in nodes]
    async with AsyncExitStack() as closing:
        clients = closing.enter_context(user(ports))
        proxies = [await closing.enter_async_context(TlsProxy(port, authority.issue_cert(HOST))) for port in ports]
        if isinstance(server, ValkeyCluster):
            closing.callback(server.announce, [0] * len(ports))
            await asyncio.to_thread(server.announce, [proxy.port for proxy in proxies])
        scheme = "rediss+cluster" if is_cluster else "rediss"
        url = url_of(scheme, proxies[:1], f"ssl_ca_certs={paths.authority}", credentials())
        yield Behind(changed(base, "valkey", url=url), proxies)
        # What the user may not do was not even tried.
        assert [entry for client in clients for entry in client.acl_log()] == []


async def test_turns_run_over_tls_as_a_user_of_an_acl(behind: Behind, tokenizer_cache: Path) -> None:
    own = changed(behind.settings, "inference", engine="scripted", cache_dir=tokenizer_cache, scripted_output_tokens=24)
    async with running_mesh(own, compressors=1) as mesh, connected(mesh.grpc_target) as client:
        await client.create("hidden")
        turns = [await client.turn(turn_request("hidden", f"Number {number}.")) for number in range(3)]
        assert [turn.state for turn in turns] == [turn_pb2.Turn.STATE_DONE] * 3
        assert len(await client.texts("hidden")) == 6
        await client.stub.DeleteSession(DeleteSessionRequest(name="sessions/hidden"))
    assert sum(proxy.count > 0 for proxy in behind.proxies) >= min(3, len(behind.proxies))


async def test_turns_run_in_the_background_over_tls(behind: Behind, tokenizer_cache: Path) -> None:
    # Long enough to be cancelled.
    paced = {"scripted_output_tokens": 60, "scripted_tokens_per_s": 20.0}
    own = changed(behind.settings, "inference", engine="scripted", cache_dir=tokenizer_cache, **paced)
    async with running_mesh(own, shards=1) as mesh, jobs_at(mesh.grpc_target) as client:
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Later.", "r1"))
        assert turn_of(await client.done(operation.name)).output_text
        cancelled = await client.submit(turn_request("s1", "Never.", "r2"))
        await client.stub.CancelTurn(CancelTurnRequest(name=cancelled.name.removesuffix("/operation")))
        await client.stub.DeleteSession(DeleteSessionRequest(name="sessions/s1"))


async def test_scripts_waits_and_pipelines_run_at_every_node(behind: Behind, tmp_path: Path) -> None:
    path = tmp_path / "add.lua"
    path.write_text("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    add = Script(path)
    client = connect(behind.settings.valkey)
    acknowledger = Acknowledger(client, behind.settings.valkey)
    many = len(behind.proxies) > 1
    assert len(await primaries(client)) == (3 if many else 1)
    answers = await asyncio.gather(*(acknowledger.run(add, [key], [2], disk=many) for key in KEYS))
    assert answers == [(2, Ack(1, on_disk=True) if many else Ack())] * len(KEYS)
    pipeline = client.pipeline(transaction=False)
    for key in KEYS:
        pipeline.execute_command("GET", key)
    assert await pipeline.execute() == [b"2"] * len(KEYS)
    for key in KEYS:
        await command(client, "UNLINK", key)
    await acknowledger.aclose()
    await client.aclose()


async def test_jobs_are_asked_for_done_and_taken_back_over_tls(behind: Behind) -> None:
    done: list[str] = []

    async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
        del tenant, first_sequence, last_sequence
        done.append(session)

    async with jobs.docket(behind.settings) as queue:
        queue.register(summarise_segment)
        await jobs.enqueue_segment(queue, "local", "kept", 1, 9)
        await jobs.enqueue_segment(queue, "local", "taken", 1, 9)
        await jobs.cancel_segments(queue, "local", "taken", [(1, 9)])
        async with Worker(queue, minimum_check_interval=timedelta(milliseconds=5)) as worker:
            await worker.run_until_finished()
    assert done == ["kept"]


async def test_a_failover_is_outlasted_over_tls(
    cluster_settings: Settings, valkey_cluster: ValkeyCluster, authority: trustme.CA, paths: Paths
) -> None:
    async with AsyncExitStack() as closing:
        proxies = [
            await closing.enter_async_context(TlsProxy(node.port, authority.issue_cert(HOST)))
            for node in valkey_cluster.nodes
        ]
        await asyncio.to_thread(valkey_cluster.announce, [proxy.port for proxy in proxies])
        url = url_of("rediss+cluster", proxies, f"ssl_ca_certs={paths.authority}")
        client = connect(changed(cluster_settings, "valkey", url=url).valkey)
        closing.push_async_callback(client.aclose)
        await command(client, "SET", KEYS[0], "kept")
        node = await asyncio.to_thread(valkey_cluster.primary_of, KEYS[0])
        await asyncio.to_thread(node.command, "WAIT", 1, 1_000)
        valkey_cluster.kill(node)
        assert await command(client, "GET", KEYS[0]) == b"kept"
        await command(client, "UNLINK", KEYS[0])
        valkey_cluster.restart(node)
        await asyncio.to_thread(valkey_cluster.announce, [0] * len(proxies))
