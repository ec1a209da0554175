"""The shard as a process of its own: ready, announced, drained by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from redis.asyncio import Redis

from services.config import Settings
from services.membership import View
from tests.context_store.client import StoreClient
from tests.support.ports import free_port


async def test_a_shard_serves_until_it_is_told_to_go(settings: Settings, valkey: Redis, tmp_path: Path) -> None:
    config = tmp_path / "isthmus.json"
    config.write_text(
        json.dumps({"valkey": {"url": settings.valkey.url}, "membership": settings.membership.model_dump()})
    )
    endpoint = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "context_store", "--member", "store-7", "--listen", endpoint,
        env={**os.environ, "ISTHMUS_CONFIG": str(config)},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        view = View(valkey, settings.membership)
        await view.start()
        (member,) = await asyncio.wait_for(view.wait_for("context_store"), 20)
        await view.stop()
        assert (member.id, member.endpoint) == ("store-7", endpoint)
        async with grpc.aio.insecure_channel(endpoint) as channel:
            store = StoreClient(ContextServiceStub(channel))
            await store.create()
            assert (await store.turn("r1", "hello", reply="hi")).output_text == "hi"
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, errors.decode()
        assert b"Traceback" not in errors
        assert not await valkey.hexists("isthmus:members:context_store", "store-7")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
