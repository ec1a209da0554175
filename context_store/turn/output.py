"""The output of open turns: what their drivers add to it while they stream."""

from __future__ import annotations

import asyncio

from isthmus.context.v1 import context_service_pb2 as api
from redis.exceptions import RedisError

from context_store.store import Store, keys_of
from context_store.turn import turns
from context_store.turn.driving import find_repeat
from services.errors import IsthmusError
from services.valkey.failover import expected

Entry = api.AppendOutputRequest.Entry
Result = api.AppendOutputResponse.Result


class OutputService:
    """Serves AppendOutput: no copy of a session is needed for it, and so any shard is as good as its owner."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, request: api.AppendOutputRequest) -> api.AppendOutputResponse:
        """All entries at once, which makes one trip of them; one that fails says so in its own result."""
        return api.AppendOutputResponse(results=await asyncio.gather(*map(self._result, request.entries)))

    async def _result(self, entry: Entry) -> Result:
        try:
            return await self._append(entry)
        except IsthmusError as error:
            return Result(reason=error.reason, message=error.message)
        except RedisError as error:
            away = expected(error)
            if away is None:
                raise
            return Result(reason=away.reason, message=away.message)

    async def _append(self, entry: Entry) -> Result:
        keys = keys_of(entry.key)
        pieces = [piece.SerializeToString() for piece in entry.pieces]
        reply = await self._store.log.append_output(keys, entry.lease, entry.first_piece, pieces)
        if reply.outcome == "REFUSED":
            # Closed, or another's; RENEW changes nothing, so it cannot have happened already.
            find_repeat(keys, entry.lease, reply, turns.Event.RENEW)
        self._store.sessions.tell_output(keys)
        return Result(piece_count=int(reply.values[0]))
