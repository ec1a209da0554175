"""What an audit reads from a session's shard: the turn, and the window that its reply was made from."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
from isthmus.context.v1 import context_service_pb2 as contract
from isthmus.context.v1 import context_service_pb2_grpc, window_pb2
from isthmus.session.v1 import turn_pb2

from services.config import CompressorSettings
from services.errors import IsthmusError, from_rpc_error
from services.router import STORE, Router


class Sources:
    """Reads of one session. Raises NOT_FOUND where it is gone, and UPSTREAM_UNAVAILABLE while no shard answers."""

    def __init__(self, router: Router, settings: CompressorSettings, tenant: str, session: str) -> None:
        self._router = router
        self._call_s_max = settings.call_ms_max / 1000
        self._key = contract.SessionKey(tenant=tenant, session=session)

    async def turn(self, number: int) -> turn_pb2.Turn:
        """The turn with its reply."""
        member, stub = self._stub()
        try:
            request = contract.GetTurnRequest(key=self._key, turn=number)
            turn: turn_pb2.Turn = await stub.GetTurn(request, timeout=self._call_s_max)
        except grpc.aio.AioRpcError as error:
            raise self._failed(member, error) from error
        return turn

    async def window(self, report: turn_pb2.WindowReport) -> AsyncGenerator[window_pb2.WindowItem, None]:
        """The window's items in order, as the store streams them. WINDOW_CHANGED if a new epoch has begun since."""
        end = window_pb2.Checkpoint(item_count=report.item_count, digest=report.digest)
        request = contract.ReadWindowRequest(key=self._key, epoch=report.epoch, end=end)
        member, stub = self._stub()
        call = stub.ReadWindow(request, timeout=self._call_s_max)
        try:
            async for page in call:
                for item in page.items:
                    yield item
        except grpc.aio.AioRpcError as error:
            raise self._failed(member, error) from error
        finally:
            call.cancel()

    def _stub(self) -> tuple[str, context_service_pb2_grpc.ContextServiceAsyncStub]:
        member, channel = self._router.store(self._key.tenant, self._key.session)
        return member, context_service_pb2_grpc.ContextServiceStub(channel)

    def _failed(self, member: str, error: grpc.aio.AioRpcError) -> IsthmusError:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._router.suspect(STORE, member)
        return from_rpc_error(error)
