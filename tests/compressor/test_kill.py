"""SIGKILL to a compressor in the middle of its work: every summary comes, and comes once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest_asyncio
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from redis.asyncio import Redis

from services.config import Settings
from services.router import STORE
from tests.compressor.summaries import assert_each_once, read_summaries, segment_count, wait_for_summaries
from tests.compressor.texts import story
from tests.context_store.client import SESSION, TENANT, StoreClient
from tests.support.mesh import Mesh, changed, running_mesh


@pytest_asyncio.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    settings = changed(settings, "store", segment_tokens=512, fragment_bytes_max=256)
    settings = changed(settings, "inference", engine="scripted")
    # What a dead worker had is soon another's. One job at a time, so that the kill falls between two of them.
    settings = changed(settings, "compressor", job_redelivery_ms=1_000, jobs_concurrent_max=1)
    async with running_mesh(settings, shards=1, replicas=1, gateways=0) as mesh:
        yield mesh


def start_process(mesh: Mesh, folder: Path, member: str) -> subprocess.Popen[bytes]:
    config = folder / "settings.json"
    config.write_text(mesh.settings.model_dump_json())
    argv = [sys.executable, "-m", "compressor", "--member", member, "--listen", "127.0.0.1:0"]
    return subprocess.Popen(argv, env={**os.environ, "ISTHMUS_CONFIG": str(config)})


async def test_a_killed_compressor_loses_and_doubles_nothing(mesh: Mesh, valkey: Redis, tmp_path: Path) -> None:
    text = story(600)
    count = segment_count(text, mesh.settings.store)
    async with grpc.aio.insecure_channel(mesh.view.ready(STORE)[0].endpoint) as channel:
        store = StoreClient(ContextServiceStub(channel))
        await store.create()
        await store.write("novel", text.encode())
        doomed = start_process(mesh, tmp_path, "compressor-0")
        try:
            await wait_for_summaries(valkey, TENANT, SESSION, 2)
        finally:
            doomed.kill()
            doomed.wait()
        assert len(await read_summaries(valkey, TENANT, SESSION)) < count, "the text is too short for this test"
        heir = start_process(mesh, tmp_path, "compressor-1")
        try:
            await wait_for_summaries(valkey, TENANT, SESSION, count)
        finally:
            heir.terminate()
            assert heir.wait() == 0

    assert_each_once(await read_summaries(valkey, TENANT, SESSION), count)
