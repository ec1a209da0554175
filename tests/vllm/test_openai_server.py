"""The engine `openai:URL` before a real `vllm serve`: a plain server stands behind the mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio
from isthmus.session.v1 import turn_pb2

from inference.engine import EngineContext, create_engine
from inference.model_files import SMOLLM2, load_model_files
from inference.tokenizer import Tokenizer
from services.config import InferenceSettings, load_settings
from services.errors import IsthmusError
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.vllm.asking import Asker

pytestmark = pytest.mark.asyncio(loop_scope="module")

START_S_MAX = 240.0


class Server:
    """The server's process, and where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def is_up(self) -> bool:
        assert self.process.returncode is None, "the server has ended"
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.url}/health")).is_success
            except httpx.HTTPError:
                return False

    async def running(self) -> float:
        """Requests that it works on, by its own count."""
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"{self.url}/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_folder: Path) -> AsyncIterator[Server]:
    port = free_port()
    # `vllm serve` is this module's command line; the CPU build's own command needs what its package does not have.
    arguments = {
        "model": str(model_folder),
        "served-model-name": "smollm2",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": 2_048,
        "max-num-seqs": 8,
        "block-size": 32,
        "kv-cache-memory-bytes": 1 << 29,
        "distributed-executor-backend": "uni",
    }
    flags = ("--enforce-eager", "--enable-prompt-tokens-details")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *(part for name, value in arguments.items() for part in (f"--{name}", str(value))),
        *flags,
        # Its engine's process outlives it when it is killed, and has to go with its group.
        start_new_session=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        await eventually(server.is_up, timeout_s=START_S_MAX)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(server: Server) -> AsyncIterator[Asker]:
    settings = InferenceSettings(engine=f"openai:{server.url}", cache_dir=load_settings().inference.cache_dir)
    files = load_model_files(SMOLLM2, settings.cache_dir)
    tokenizer = Tokenizer(files.tokenizer_json, files.vocabulary)
    engine = create_engine(EngineContext(settings, files, tokenizer))
    await engine.start()
    yield Asker(cast(Any, engine), tokenizer)
    await engine.stop()


async def test_it_says_what_it_serves_and_answers(asked: Asker) -> None:
    assert (asked.engine.model, asked.engine.context_tokens_max) == ("smollm2", 2_048)
    reply = await asked.ask(asked.said("What is the capital of France?"), 30)
    assert "Paris" in reply.text
    assert reply.finish_reason == turn_pb2.FINISH_REASON_STOP
    assert not asked.tokenizer.special_ids & set(reply.ids)
    assert (await asked.ask(asked.story(100), 5)).finish_reason == turn_pb2.FINISH_REASON_LENGTH


async def test_its_prefix_cache_is_each_tenants_own(asked: Asker) -> None:
    story = asked.story(400)
    cached = [(await asked.ask(story, 2, salt=tenant)).cached_tokens for tenant in ("one", "one", "two")]
    assert cached[0] == cached[2] == 0
    assert (cached[1] or 0) >= 384


async def test_closing_a_reply_ends_it_there(asked: Asker, server: Server) -> None:
    async with aclosing(asked.engine.generate(asked.request(asked.story(50), 1_500))) as outputs:
        await anext(outputs)
        assert await server.running() == 1

    async def is_idle() -> bool:
        return await server.running() == 0

    await eventually(is_idle)


async def test_what_it_refuses_and_that_it_is_gone_are_told(asked: Asker, server: Server) -> None:
    with pytest.raises(IsthmusError, match="refused the request with 400"):
        await asked.ask(asked.story(400), 4_000)
    server.process.kill()
    await server.process.wait()
    with pytest.raises(IsthmusError, match="went away"):
        await asked.ask(asked.said("Are you there?"))
