"""A new model with another tokenizer takes the old one's place while turns run: sessions stay, and no turn is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from isthmus.session.v1 import turn_pb2

from services.config import Settings
from services.router import INFERENCE
from tests.gateway.client import Client, connected, turn_request
from tests.inference.test_hub_files import write
from tests.support.mesh import changed, running_mesh
from tests.support.openai_server import DONE, choice, openai_server

TURNS = 12


async def test_a_rolling_change_of_model_loses_no_turn(settings: Settings, tmp_path: Path) -> None:
    old = changed(settings, "inference", model="m", scripted_output_tokens=8, scripted_tokens_per_s=200.0)
    async with openai_server() as server, running_mesh(old) as mesh, connected(mesh.grpc_target) as client:
        server.events = [choice(text="From the new one."), choice(finish_reason="stop"), DONE]
        served = changed(old, "inference", engine=f"openai:http://127.0.0.1:{server.port}")
        new = changed(served, "openai", tokenizer=write(tmp_path / "other"), vllm_fields=False)
        await client.create("s1")
        talking = asyncio.create_task(_talk(client))
        await mesh.add_replica(1, new)
        await mesh.settled(INFERENCE, 2)
        await mesh.remove(f"{INFERENCE}-0", drain=True)
        turns = await talking
        last = await client.turn(turn_request("s1", "And now?"))
        texts = await client.texts("s1")
    assert all(turn.state == turn_pb2.Turn.STATE_DONE for turn in turns)
    assert last.receipt.replica == f"{INFERENCE}-1"
    assert last.output_text == "From the new one."
    assert last.receipt.window.item_count == 2 * TURNS + 1, "the whole session, counted anew"
    assert texts == [text for turn in turns for text in (turn.request_id, turn.output_text)] + [
        "And now?",
        last.output_text,
    ]


async def _talk(client: Client) -> list[turn_pb2.Turn]:
    """Each turn's message is its request_id."""
    names = [f"turn {number}" for number in range(TURNS)]
    return [await client.turn(turn_request("s1", name, name)) for name in names]
