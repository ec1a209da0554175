"""Turns are counted once, by how they ended, whichever edge they came in by."""

from __future__ import annotations

import httpx
import pytest

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, running_mesh


async def test_turns_over_grpc_are_counted_by_their_outcome(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    turn = await client.turn(turn_request("s1", "Once.", "r1"))
    await client.turn(turn_request("s1", "Once.", "r1"))
    with pytest.raises(IsthmusError):
        await client.turn(turn_request("nobody", "Hello?"))
    async with httpx.AsyncClient(base_url=mesh.http_url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    for outcome in ("done", "replayed", "not_found"):
        assert f'isthmus_turns_total{{outcome="{outcome}"}} 1.0' in lines
    assert f'isthmus_tokens_total{{kind="output"}} {float(turn.receipt.tokens.output_tokens)}' in lines
    assert "isthmus_turn_ttft_seconds_count 1.0" in lines


async def test_a_caller_who_goes_is_counted_as_gone(slow: Settings) -> None:
    async with (
        running_mesh(slow) as mesh,
        connected(mesh.grpc_target) as client,
        httpx.AsyncClient(base_url=mesh.http_url) as http,
    ):
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Never mind."))
        await anext(aiter(call))
        call.cancel()

        async def counted() -> bool:
            return 'isthmus_turns_total{outcome="client_gone"} 1.0' in (await http.get("/metrics")).text

        await eventually(counted, message="the turn is counted")
