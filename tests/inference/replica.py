"""A replica in this process, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from isthmus.context.v1 import window_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import message_pb2

from inference.engine import Engine
from inference.room import InferenceRoom
from services.config import Settings
from services.errors import IsthmusError, from_rpc_error
from services.lifecycle import RoomContext

Params = message_pb2.SamplingParams


@dataclass(slots=True)
class Reply:
    """All that one Generate answered."""

    started: contract.GenerateResponse.Started = field(default_factory=contract.GenerateResponse.Started)
    finished: contract.GenerateResponse.Finished = field(default_factory=contract.GenerateResponse.Finished)
    text: str = ""
    ids: list[int] = field(default_factory=list)


class Replica:
    """A started room and a stub to it."""

    def __init__(self, room: InferenceRoom, context: RoomContext, channel: grpc.aio.Channel) -> None:
        self.room = room
        self.context = context
        self.stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

    @property
    def engine(self) -> Engine:
        assert self.room.engine is not None
        return self.room.engine

    def call(self, manifest: window_pb2.Manifest, session: str = "s", tenant: str = "t", **params: Any) -> Any:
        """An open Generate call."""
        request = contract.GenerateRequest(tenant=tenant, session=session, manifest=manifest, params=Params(**params))
        return self.stub.Generate(request)

    async def generate(
        self, manifest: window_pb2.Manifest, session: str = "s", tenant: str = "t", **params: Any
    ) -> Reply:
        """A whole reply; raises IsthmusError."""
        reply = Reply()
        try:
            async for response in self.call(manifest, session, tenant, **params):
                take(reply, response)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return reply


def take(reply: Reply, response: contract.GenerateResponse) -> None:
    """Adds one response to the reply, in the order that the contract promises."""
    assert not reply.finished.finish_reason, "nothing comes after `finished`"
    if response.HasField("started"):
        assert not reply.started.replica, "`started` comes once"
        reply.started = response.started
    elif response.HasField("delta"):
        assert reply.started.replica, "`started` comes first"
        reply.text += response.delta.text
        reply.ids += response.delta.token_ids
    else:
        reply.finished = response.finished


async def error_of(call: Any) -> IsthmusError:
    """The error that an rpc ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    except IsthmusError as error:
        return error
    raise AssertionError("expected an error")


@asynccontextmanager
async def running_replica(settings: Settings, cache_dir: Path, **inference: Any) -> AsyncIterator[Replica]:
    """A replica with the scripted engine, unless `inference` says otherwise; drained and stopped at the end."""
    section = settings.inference.model_copy(update={"engine": "scripted", "cache_dir": cache_dir, **inference})
    context = RoomContext(settings.model_copy(update={"inference": section}), "replica-1", "127.0.0.1:0")
    room = InferenceRoom(context)
    try:
        await room.start()
        async with grpc.aio.insecure_channel(room.address) as channel:
            yield Replica(room, context, channel)
            await room.drain()
    finally:
        await room.stop()
