"""What becomes of jobs that fail, or whose gateway is killed: done once, or a dead letter with its reason."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import operation_pb2, session_service_pb2, turn_pb2
from redis.asyncio import Redis

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import turn_request
from tests.jobs.conftest import Jobs, Metadata, error_of, jobs_at, metadata_of, turn_of, with_jobs
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh


def worker(mesh: Mesh, settings: Settings, folder: Path, number: int) -> subprocess.Popen[bytes]:
    """A gateway in a process of its own, to be killed."""
    config = folder / "worker.json"
    config.write_text(settings.model_dump_json())
    argv = [sys.executable, "-m", "gateway", "--member", f"gateway-{number}", "--listen", "127.0.0.1:0"]
    return subprocess.Popen(argv, env={**os.environ, "ISTHMUS_CONFIG": str(config)})


@asynccontextmanager
async def front(settings: Settings, replicas: int = 1) -> AsyncIterator[tuple[Mesh, Jobs]]:
    """A mesh whose own gateway takes jobs in and runs none."""
    async with (
        running_mesh(with_jobs(settings, turns_concurrent_max=0), shards=1, replicas=replicas) as mesh,
        jobs_at(mesh.grpc_target) as client,
    ):
        yield mesh, client


async def turns_in(client: Jobs, session: str) -> list[turn_pb2.Turn]:
    """All turns of a session, without their texts."""
    request = session_service_pb2.ListTurnsRequest(parent=f"sessions/{session}", page_size=100)
    return list((await client.stub.ListTurns(request)).turns)


async def test_what_no_replica_would_run_is_a_dead_letter_and_is_replayed(quick: Settings) -> None:
    impatient = changed(quick, "gateway", upstream_wait_ms_max=100)
    async with front(impatient) as (mesh, client):
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Anybody there?", "r1"))
        await mesh.remove("inference-0")
        await mesh.settled("inference", 0)
        await mesh.add_gateway(1, impatient)
        dead = await client.done(operation.name)
        assert error_of(dead).reason in (
            errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
            errors_pb2.ERROR_REASON_NOT_READY,
        )
        letters = await eventually(lambda: client.listed("state = DEAD"), message="it is among the dead letters")
        told = metadata_of(letters[0])
        assert (told.state, told.dead, told.attempt) == (Metadata.STATE_FAILED, True, 3)
        assert told.last_error.message
        assert (await client.get_turn("sessions/s1/turns/1")).state == turn_pb2.Turn.STATE_FAILED
        await mesh.add_replica(0)
        await mesh.settled("inference", 1)
        replay = operation_pb2.ReplayTurnRequest(name=operation.name)
        again = await client.stub.ReplayTurn(replay)
        assert turn_of(await client.done(again.name)).number == 2
        assert await client.listed("state = DEAD") == []
        assert (await client.texts("s1"))[0] == "Anybody there?"
        with pytest.raises(Exception, match="NOT_FOUND"):
            await client.stub.ReplayTurn(replay)


async def test_a_job_that_takes_its_gateways_with_it_is_given_up(quick: Settings, valkey: Redis) -> None:
    async with front(quick) as (mesh, client):
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Poison.", "r1"))
        # As many gateways have taken it, and were lost, as may be.
        await valkey.hset("isthmus:{local/s1}:meta", "open_attempt", "9")
        await mesh.add_gateway(1, quick)
        dead = await client.done(operation.name)
        assert error_of(dead).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert "its gateway was lost" in error_of(dead).message
        assert len(await turns_in(client, "s1")) == 1


async def test_an_erased_session_takes_its_jobs_with_it(quick: Settings) -> None:
    async with front(quick) as (mesh, client):
        await client.create("s1")
        await client.submit(turn_request("s1", "Soon gone.", "r1"))
        await client.stub.DeleteSession(session_service_pb2.DeleteSessionRequest(name="sessions/s1"))
        assert await client.listed() == []
        # A session of the same id is another one, and its first turn another job.
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Here again.", "r1"))
        await mesh.add_gateway(1, quick)
        reply = turn_of(await client.done(operation.name)).output_text
        assert await client.texts("s1") == ["Here again.", reply]


async def test_a_gateway_killed_in_the_middle_of_a_job_is_replaced_and_the_turn_is_done_once(
    quick: Settings, tmp_path: Path
) -> None:
    paced = changed(quick, "inference", scripted_output_tokens=60, scripted_tokens_per_s=20.0)
    async with front(paced) as (mesh, client):
        await client.create("s1")
        doomed = worker(mesh, paced, tmp_path, 1)
        try:
            operation = await client.submit(turn_request("s1", "Survive.", "r1"))
            await eventually(mesh.generating, timeout_s=60, message="the reply is under way")
        finally:
            doomed.kill()
            doomed.wait()
        # The lease of its turn outlives it: nobody else gets the session meanwhile.
        other = await client.outcome(turn_request("s1", "Me first!", "r2"))
        assert isinstance(other, IsthmusError)
        assert other.reason == errors_pb2.ERROR_REASON_TURN_IN_PROGRESS
        await mesh.add_gateway(2, paced)
        done = await client.done(operation.name)
        turn = turn_of(done)
        assert turn.attempt == 3, "opened, driven by the one that was killed, and by the one that followed"
        assert [each.number for each in await turns_in(client, "s1")] == [1]
        assert await client.texts("s1") == ["Survive.", turn.output_text]
        sequences = [turn.first_input_sequence, turn.last_input_sequence, turn.first_output_sequence]
        assert sequences == [1, 1, 2], "gapless"


async def test_two_hundred_jobs_with_workers_killed_at_random_are_each_done_once(
    quick: Settings, tmp_path: Path
) -> None:
    count, seed = 200, random.Random(7)
    # No job is given up: what is asked is whether any is lost or doubled.
    paced = with_jobs(
        changed(quick, "inference", scripted_tokens_per_s=100.0), attempts_count_max=50, turns_concurrent_max=8
    )
    async with front(paced) as (mesh, client):
        for first in range(0, count, 20):
            await asyncio.gather(*(client.create(f"s{number}") for number in range(first, first + 20)))
        workers = {number: worker(mesh, paced, tmp_path, number) for number in (1, 2)}
        try:
            for first in range(0, count, 20):
                batch = [turn_request(f"s{number}", f"Job {number}.", "r") for number in range(first, first + 20)]
                await asyncio.gather(*(client.submit(request) for request in batch))
            for _ in range(3):
                most = max(0, len(await client.listed()) - 10)
                doomed = seed.choice(list(workers))
                await eventually(partial(_at_most, client, most), 60, "workers work")
                workers[doomed].kill()
                workers[doomed].wait()
                workers[doomed] = worker(mesh, paced, tmp_path, doomed)
            await eventually(partial(_at_most, client, 0), 100, "no job is live any more")
        finally:
            for each in workers.values():
                each.terminate()
            for each in workers.values():
                each.wait()
        for number in range(count):
            turns = await turns_in(client, f"s{number}")
            assert [(each.number, each.state) for each in turns] == [(1, turn_pb2.Turn.STATE_DONE)]
            assert len(await client.texts(f"s{number}")) == 2
        assert await client.listed("state = DEAD") == []


async def _at_most(client: Jobs, count: int) -> bool:
    return len(await client.listed()) <= count


async def test_a_gateway_that_was_only_thought_lost_doubles_nothing(quick: Settings, tmp_path: Path) -> None:
    paced = changed(quick, "inference", scripted_output_tokens=40, scripted_tokens_per_s=20.0)
    async with front(paced) as (mesh, client):
        await client.create("s1")
        held = worker(mesh, paced, tmp_path, 1)
        try:
            operation = await client.submit(turn_request("s1", "Who is it?", "r1"))
            await eventually(mesh.generating, timeout_s=60, message="the reply is under way")
            held.send_signal(signal.SIGSTOP)
            await mesh.add_gateway(2, paced)
            first = turn_of(await client.done(operation.name))
            held.send_signal(signal.SIGCONT)
            # It goes on with what it had, finds the turn another's, and takes its next job as if nothing were.
            await mesh.remove("gateway-2")
            second = await client.submit(turn_request("s1", "And now?", "r2"))
            next_one = turn_of(await client.done(second.name))
        finally:
            held.send_signal(signal.SIGCONT)
            held.terminate()
            assert held.wait() == 0
        assert [each.number for each in await turns_in(client, "s1")] == [1, 2]
        texts = ["Who is it?", first.output_text, "And now?", next_one.output_text]
        assert await client.texts("s1") == texts
