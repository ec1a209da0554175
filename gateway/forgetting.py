"""Telling every shard and every replica that a session is erased, so that no copy in memory outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from isthmus.context.v1 import context_service_pb2 as store
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.inference.v1 import inference_service_pb2 as inference
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from isthmus.session.v1 import deletion_pb2

from gateway.shards import answered
from services.collections import collection_of
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.membership import Member, View
from services.router import INFERENCE, STORE
from services.rpc import Channels

Erasure: TypeAlias = deletion_pb2.DeletionReceipt.Erasure


class Forgetting:
    """Asks all members of the view, whatever their state; one that does not answer in time is named, not waited for."""

    def __init__(self, view: View, channels: Channels, settings: GatewaySettings) -> None:
        self._view = view
        self._channels = channels
        self._seconds_max = settings.forget_ms_max / 1000
        self._places = asyncio.Semaphore(settings.forget_concurrent_max)

    async def forget(self, tenant: str, receipt: deletion_pb2.DeletionReceipt) -> None:
        """Adds to the receipt what members held of its session, and of the forks that lost their past with it."""
        sessions = [name.removeprefix("sessions/") for name in (receipt.name, *receipt.forks)]
        # Of files, libraries and bookmarks no replica has ever seen a window.
        rooms = (STORE,) if collection_of(sessions[0]) else (STORE, INFERENCE)
        members = [(member, room) for room in rooms for member in self._view.members(room)]
        answers = await asyncio.gather(*(self._ask(member, room, tenant, sessions) for member, room in members))
        for (member, _), erasures in zip(members, answers, strict=True):
            if erasures is None:
                receipt.unreached.append(member.id)
            else:
                receipt.erasures.extend(erasures)

    async def _ask(self, member: Member, room: str, tenant: str, sessions: Iterable[str]) -> list[Erasure] | None:
        channel = self._channels.get(member.endpoint, peer=room)
        found: list[Erasure] = []
        async with self._places:
            try:
                async with asyncio.timeout(self._seconds_max):
                    for session in sessions:
                        if room == STORE:
                            key = store.SessionKey(tenant=tenant, session=session)
                            shard = ContextServiceStub(channel).ForgetSession(store.ForgetSessionRequest(key=key))
                            found += (await answered(shard)).erasures
                        else:
                            request = inference.ForgetSessionRequest(tenant=tenant, session=session)
                            replica = InferenceServiceStub(channel).ForgetSession(request)
                            found += (await answered(replica)).erasures
            except (IsthmusError, TimeoutError):
                return None
        return found
