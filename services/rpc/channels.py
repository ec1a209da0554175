"""Channels to other rooms: one a target, with deadlines, retries where they are safe, and a span for every hop."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable

import grpc

from services.config import RpcSettings
from services.rpc.calls import HopChannel


class Channels:
    """The channels of one room to its peers, opened when first asked for and kept until `aclose`.

    `retryable` names the methods (`/package.Service/Method`) that may be sent again after UNAVAILABLE because doing
    them twice does what doing them once does. gRPC itself also repeats any call that never left this machine.
    """

    def __init__(
        self, settings: RpcSettings, room: str, *, message_bytes_max: int | None = None, retryable: Iterable[str] = ()
    ) -> None:
        self._settings = settings
        self._room = room
        self._options = channel_options(settings, message_bytes_max or settings.message_bytes_max, retryable)
        self._channels: OrderedDict[tuple[str, str], grpc.aio.Channel] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, target: str, peer: str) -> grpc.aio.Channel:
        """The channel to a `host:port` where a room named `peer` listens; its spans are labelled `<room>.<peer>`."""
        channel = self._channels.get((target, peer))
        if channel is None:
            channel = HopChannel(
                grpc.aio.insecure_channel(target, options=self._options),
                f"{self._room}.{peer}",
                self._settings.deadline_ms_default / 1000,
            )
            self._channels[target, peer] = channel
            self._evict()
        self._channels.move_to_end((target, peer))
        return channel

    async def aclose(self) -> None:
        """Closes every channel; calls that are open end as cancelled."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()
        await asyncio.gather(*self._closing)

    def _evict(self) -> None:
        """Members that restart elsewhere leave channels behind; what is still open on one may end first."""
        if len(self._channels) > self._settings.channels_count_max:
            _, channel = self._channels.popitem(last=False)
            closing = asyncio.get_running_loop().create_task(channel.close(self._settings.drain_ms_max / 1000))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def channel_options(
    settings: RpcSettings, message_bytes_max: int, retryable: Iterable[str]
) -> list[tuple[str, int | str]]:
    """gRPC's arguments for a channel: message bounds, keepalive, reconnection, and the retry policy."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.http2.lookahead_bytes", settings.stream_ahead_bytes_max),
        ("grpc.max_metadata_size", settings.metadata_bytes_max),
        ("grpc.keepalive_time_ms", settings.keepalive_ms),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", settings.reconnect_ms_min),
        ("grpc.min_reconnect_backoff_ms", settings.reconnect_ms_min),
        ("grpc.max_reconnect_backoff_ms", settings.reconnect_ms_max),
        ("grpc.service_config", service_config(settings, retryable)),
    ]


def service_config(settings: RpcSettings, retryable: Iterable[str]) -> str:
    """gRPC's service config as JSON: the retryable methods, and how often and how fast they are tried."""
    names = [method.lstrip("/").split("/") for method in sorted(retryable)]
    policy = {
        "maxAttempts": settings.attempts_count_max,
        "initialBackoff": f"{settings.retry_backoff_ms_min / 1000}s",
        "maxBackoff": f"{settings.retry_backoff_ms_max / 1000}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    named = [{"service": service, "method": method} for service, method in names]
    return json.dumps({"methodConfig": [{"name": named, "retryPolicy": policy}] if named else []})
