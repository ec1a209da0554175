"""What a stream of requests was refused with arrives, however much of it is still on its way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.config import RpcSettings
from services.rpc import Channels

CALLS = 300


class _Refusing(grpc.GenericRpcHandler):
    """Refuses every stream at its second message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await anext(requests)
        await anext(requests)
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "the second", (("why", "it is the second"),))


async def test_a_refusal_that_crosses_with_what_is_still_sent_arrives() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Refusing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channels = Channels(RpcSettings(), "test")
    try:
        method: Any = channels.get(f"127.0.0.1:{port}", "test").stream_unary("/test/Refuse")
        for _ in range(CALLS):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(iter([bytes(64_000)] * 12))
            assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
            assert caught.value.details() == "the second"
            assert dict(caught.value.trailing_metadata() or ())["why"] == "it is the second"
    finally:
        await channels.aclose()
        await server.stop(grace=None)
