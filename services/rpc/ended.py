"""How a call with a stream of requests ended, where grpc.aio would say something else.

A server may end such a call while the client still writes. The write that fails then gives the call a status of
grpc.aio's own, and where the server's was there before, it is gone (grpc/grpc#36066).
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Final

import grpc

_BROKEN_WRITE: Final = "Internal error from Core"


class ServerStatus:
    """A stream-unary call that raises the status which its server gave it. In all else it is the call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            is_servers = error.details() != _BROKEN_WRITE
            raise error if is_servers else self._first or error from None

    def _ended(self, call: Any) -> None:
        code = _at_once(call.code())
        if code is not grpc.StatusCode.OK:
            parts = (call.initial_metadata(), call.trailing_metadata(), call.details(), call.debug_error_string())
            self._first = grpc.aio.AioRpcError(code, *map(_at_once, parts))


def _at_once(value: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for: the call is over."""
    try:
        value.send(None)
    except StopIteration as returned:
        return returned.value
    raise RuntimeError("a call that is over has no status")
