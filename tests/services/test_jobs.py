"""The job contract: what is asked for twice is done once, and the worker finds it by name."""

from __future__ import annotations

from datetime import timedelta

from docket import Worker

from services import jobs
from services.config import Settings


async def test_the_same_segment_is_queued_once(settings: Settings) -> None:
    async with jobs.docket(settings) as queue:
        for _ in range(3):
            await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
        await jobs.enqueue_segment(queue, "local", "s1", 10, 20)
        snapshot = await queue.snapshot()
    assert sorted(each.key for each in snapshot.future) == ["l1:local/s1:1-9", "l1:local/s1:10-20"]


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


async def test_meshes_of_other_names_have_queues_of_their_own(settings: Settings) -> None:
    other = settings.model_copy(update={"mesh": settings.mesh.model_copy(update={"name": "other"})})
    async with jobs.docket(settings) as queue, jobs.docket(other) as theirs:
        await jobs.enqueue_segment(queue, "local", "s1", 1, 9)
        assert (await theirs.snapshot()).future == []
