"""What a large body costs the gateway, by the peak of a real process."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from services.cli.bench import memory
from services.cli.bench.mesh import with_mesh
from services.supervisor.plan import GATEWAY
from services.supervisor.state import MeshState

pytestmark = pytest.mark.timeout(120)

BODY_BYTES = 10_000_000
# Three times is what is promised; what other work of the process takes meanwhile is in the peak, too.
PEAK_FACTOR_MAX = 3.5
# The session has all of it, the model what its turn needs: this is about the gateway.
CONTEXT_TOKENS = 1 << 20


def body_of(messages: int) -> bytes:
    """A conversation of so many messages, the last one the user's."""
    text = "So it goes. " * (BODY_BYTES // messages // 12)
    roles = ("user", "assistant")
    sent = [{"role": roles[number % 2], "content": f"{number}: {text}"} for number in range(messages)]
    return json.dumps({"model": "scripted", "messages": sent}).encode()


async def test_a_body_of_ten_megabytes_costs_three_times_its_size_at_most(tmp_path: Path) -> None:
    factors: dict[str, float] = {}

    async def work(mesh: MeshState) -> None:
        (pid,) = [each.pid for each in mesh.processes if each.room == GATEWAY]
        assert pid is not None
        async with httpx.AsyncClient(base_url=mesh.http, timeout=60) as client:

            async def post(body: bytes) -> httpx.Response:
                return await client.post(
                    "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
                )

            async def factor(body: bytes, status: int) -> float:
                memory.forget_peak([pid])
                before = memory.resident_bytes([pid])
                answer = await post(body)
                assert answer.status_code == status, answer.text
                return (memory.peak_bytes([pid]) - before) / len(body)

            # What the first request of all loads stays.
            await post(b'{"messages": [{"role": "user", "content": "hello"}]}')
            factors["many"] = await factor(body_of(20_001), 200)
            factors["large"] = await factor(body_of(201), 200)
            # More than a message may say.
            factors["one"] = await factor(body_of(1), 400)

    await with_mesh(tmp_path, work, {"mesh": {"shards": 1}, "inference": {"context_tokens_max": CONTEXT_TOKENS}})
    assert max(factors.values()) < PEAK_FACTOR_MAX, factors
