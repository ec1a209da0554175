"""The job contract: what is asked for twice is done once, and the worker finds it by name."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from docket import Docket, Worker

from services import jobs
from services.config import Settings
from services.valkey import command, connect, scan_keys
from tests.support.eventually import eventually
from tests.support.valkey_cluster import ValkeyCluster


async def test_the_same_segment_is_queued_once(settings: Settings) -> None:
    async with jobs.docket(settings) as queue:
        for _ in range(3):
            await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
        await jobs.enqueue_segment(queue, "local", "s1", 10, 20)
        snapshot = await queue.snapshot()
    asked = {jobs.segment_key("local", "s1", 1, 9), jobs.segment_key("local", "s1", 10, 20)}
    assert len(snapshot.future) == len(asked) == 2
    assert {each.key for each in snapshot.future} == asked


async def test_the_worker_gets_the_arguments_under_the_name(settings: Settings) -> None:
    done: list[tuple[str, str, int, int]] = []

    async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
        done.append((tenant, session, first_sequence, last_sequence))

    async with jobs.docket(settings) as queue:
        await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
    async with jobs.docket(settings) as queue:
        queue.register(summarise_segment)
        async with Worker(queue, minimum_check_interval=timedelta(milliseconds=5)) as worker:
            await worker.run_until_finished()
    assert done == [("local", "s1", 1, 9)]


async def test_asking_does_not_replace_the_function_of_a_worker(settings: Settings) -> None:
    async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
        """The compressor's own."""

    async with jobs.docket(settings) as queue:
        queue.register(summarise_segment)
        await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
        assert queue.tasks[jobs.SUMMARISE_SEGMENT] is summarise_segment


@pytest.mark.foreign_keys("other:*")
async def test_meshes_of_other_names_have_queues_of_their_own(settings: Settings) -> None:
    other = settings.model_copy(update={"mesh": settings.mesh.model_copy(update={"name": "other"})})
    async with jobs.docket(settings) as queue, jobs.docket(other) as theirs:
        await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
        assert (await theirs.snapshot()).future == []


@pytest.fixture(params=["settings", "cluster_settings"], ids=["node", "cluster"])
def either(request: pytest.FixtureRequest) -> Settings:
    chosen: Settings = request.getfixturevalue(request.param)
    return chosen


def worker(queue: Docket) -> Worker:
    return Worker(
        queue,
        minimum_check_interval=timedelta(milliseconds=5),
        scheduling_resolution=timedelta(milliseconds=5),
        redelivery_timeout=timedelta(seconds=1),
        reconnection_delay=timedelta(milliseconds=50),
    )


def noting(done: list[tuple[str, int]]) -> Callable[..., Awaitable[None]]:
    async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
        del tenant, last_sequence
        done.append((session, first_sequence))

    return summarise_segment


async def test_a_job_tells_no_session_by_its_key_and_leaves_nothing_behind(either: Settings) -> None:
    done: list[tuple[str, int]] = []
    client = connect(either.valkey)
    async with jobs.docket(either) as queue:
        queue.register(noting(done))
        await jobs.enqueue_segment(queue, "local", "secret", 1, 9)
        assert not [key async for key in scan_keys(client, "*secret*")]
        assert [key async for key in scan_keys(client, f"*{jobs.segment_key('local', 'secret', 1, 9)}*")]
        async with worker(queue) as working:
            await working.run_until_finished()
    assert done == [("secret", 1)]
    assert not [key async for key in scan_keys(client, f"*{jobs.segment_key('local', 'secret', 1, 9)}*")]
    await client.aclose()


async def test_the_pending_jobs_of_a_deleted_session_are_taken_back(either: Settings) -> None:
    done: list[tuple[str, int]] = []
    async with jobs.docket(either) as queue:
        queue.register(noting(done))
        for session in ("kept", "deleted"):
            for first in (1, 10, 20):
                await jobs.enqueue_segment(queue, "local", session, first, first + 9)
        never_asked = (100, 109)
        await jobs.cancel_segments(queue, "local", "deleted", [(1, 10), (10, 19), (20, 29), never_asked])
        async with worker(queue) as working:
            await working.run_until_finished()
        assert sorted(done) == [("kept", 1), ("kept", 10), ("kept", 20)]
        await jobs.enqueue_segment(queue, "local", "deleted", 1, 10)
        async with worker(queue) as working:
            await working.run_until_finished()
    assert done[-1] == ("deleted", 1)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_jobs_go_on_after_a_failover(cluster_settings: Settings, valkey_cluster: ValkeyCluster) -> None:
    """Of the queue's own primary; who comes later finds the cluster though the first of its seeds is dead."""
    asyncio.run(_go_on_after_a_failover(cluster_settings, valkey_cluster))
    # Docket's cluster client may lose a connection that it opens just as another task closes it: here and not in the
    # next test's face.
    gc.collect()


async def _go_on_after_a_failover(cluster_settings: Settings, valkey_cluster: ValkeyCluster) -> None:
    done: list[tuple[str, int]] = []
    client = connect(cluster_settings.valkey)
    async with jobs.docket(cluster_settings) as queue:
        queue.register(noting(done))
        async with worker(queue) as working:
            running = asyncio.create_task(working.run_forever())
            await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
            await eventually(lambda: done == [("s1", 1)])
            primary = valkey_cluster.primary_of(queue.stream_key)
            valkey_cluster.kill(primary)
            # Answered once the failover is over.
            await command(client, "EXISTS", queue.stream_key)
            seeds = cluster_settings.valkey.url.replace("redis+cluster://", "redis+cluster://127.0.0.1:1,")
            valkey = cluster_settings.valkey.model_copy(update={"url": seeds})
            async with jobs.docket(cluster_settings.model_copy(update={"valkey": valkey})) as later:
                await jobs.enqueue_segment(later, "local", "s1", 10, 19)
            await eventually(lambda: ("s1", 10) in done, timeout_s=30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    await client.aclose()
