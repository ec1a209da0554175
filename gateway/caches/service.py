"""The caches' own rpcs: the report, and telling an answer wrong."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc.aio
from isthmus.errors.v1 import errors_pb2
from isthmus.gateway.v1 import cache_service_pb2, cache_service_pb2_grpc
from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.backend import Backend
from gateway.caches.caches import Caches
from gateway.names import parse_turn
from gateway.tenancy import tenant
from services.errors import IsthmusError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_PAGE_SIZE: Final = 100


class CacheServicer(cache_service_pb2_grpc.CacheServiceServicer):
    """Of the caller's tenant alone."""

    def __init__(self, caches: Caches, backend: Backend) -> None:
        self._caches = caches
        self._backend = backend

    async def GetCacheReport(
        self, request: cache_service_pb2.GetCacheReportRequest, context: Context
    ) -> cache_service_pb2.CacheReport:
        return await self._caches.report(tenant())

    async def MarkWrong(
        self, request: cache_service_pb2.MarkWrongRequest, context: Context
    ) -> cache_service_pb2.MarkWrongResponse:
        name = parse_turn(request.turn, "turn")
        turn = await self._backend.get_turn(tenant(), name.session, name.number)
        if not turn.receipt.HasField("cache"):
            message = f"{request.turn} was not given a cached answer; expected a turn whose receipt has `cache`"
            raise IsthmusError(errors_pb2.ERROR_REASON_TURN_STATE, message)
        question = await self._question(name.session, turn)
        return cache_service_pb2.MarkWrongResponse(source_turn=await self._caches.wrong(tenant(), turn, question))

    async def _question(self, session: str, turn: turn_pb2.Turn) -> str:
        """What the turn asked: the last of its own messages, which is the last of the window that the cache saw."""
        found = await self._backend.list_fragments(
            tenant(), session, page_size=_PAGE_SIZE, start_sequence=turn.last_input_sequence
        )
        texts = [
            each.text
            for each in found.fragments
            if each.sequence == turn.last_input_sequence and each.role == message_pb2.ROLE_USER
        ]
        return texts[0] if texts else ""
