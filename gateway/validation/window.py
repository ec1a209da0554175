"""The texts that a reply was made from: those that came with the turn, and where these do not do, all of its window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import grpc.aio
from isthmus.context.v1 import context_service_pb2, window_pb2

from gateway.shards import Shards
from gateway.turn.calls import Errand
from services.claims.grounding import Grounding
from services.config import ValidationSettings
from services.errors import IsthmusError, from_rpc_error


class Unread(Exception):  # noqa: N818 - a reply is no worse for it
    """The window could not be looked at as a whole."""


async def look_up(
    grounding: Grounding, manifest: window_pb2.Manifest, errand: Errand, shards: Shards, settings: ValidationSettings
) -> None:
    """Looks a reply up in its window: first in what came with the turn, then in what is before it at the shard.

    Reads on only while something is missing. Raises Unread where the window is larger than may be read, or cannot be.
    """
    await asyncio.to_thread(_read, grounding, manifest.new_items)
    end = manifest.prefix if manifest.new_items else manifest.end
    if grounding.is_whole() or not end.item_count:
        return
    until = min(errand.until, time.monotonic() + settings.grounding_window_ms_max / 1000)
    left = settings.grounding_window_bytes_max
    try:
        async with aclosing(_pages(shards, errand, manifest.epoch, end, until)) as pages:
            async for page in pages:
                left -= sum(len(item.text.encode()) for item in page.items)
                await asyncio.to_thread(_read, grounding, page.items)
                if grounding.is_whole():
                    return
                if left < 0:
                    raise Unread(f"the window is larger than {settings.grounding_window_bytes_max} bytes")
    except IsthmusError as error:
        raise Unread(str(error)) from error


async def _pages(
    shards: Shards, errand: Errand, epoch: int, end: window_pb2.Checkpoint, until: float
) -> AsyncGenerator[context_service_pb2.ReadWindowResponse, None]:
    stub = await shards.reachable(errand.tenant, errand.session, until=until)
    request = context_service_pb2.ReadWindowRequest(key=errand.key, epoch=epoch, end=end)
    call = stub.ReadWindow(request, timeout=max(0.0, until - time.monotonic()))
    try:
        async for page in call:
            yield page
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    finally:
        call.cancel()


def _read(grounding: Grounding, items: Iterable[window_pb2.WindowItem]) -> None:
    for item in items:
        # Who said it may be what the reply says of it.
        grounding.read(f"{item.author} {item.text}")
