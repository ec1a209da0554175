"""Where a conversation goes on: in the session that has its beginning, in a fork of it, or in a new one with all of it.

A session has a beginning if a bookmark says so for its digest, and if the session's texts still have as many bytes: one
that was added to or erased from since is another conversation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_pb2

from gateway.http.chat import bookmarks
from gateway.http.chat.bookmarks import Bookmark
from gateway.http.chat.history import History
from gateway.http.chat.packed import Packed
from gateway.http.edge import Edge
from gateway.http.ids import session_of_key
from gateway.http.messages import RESERVED_PREFIX
from gateway.http.sessions import Origin, labels_of, labels_with, metadata_of
from gateway.identity import new_id
from gateway.tools.listing import is_listed, listing
from services.errors import IsthmusError

_BEGAN: Final = f"{RESERVED_PREFIX}began"
# With it: the bytes that the session had by then, and whether it was told of the request's functions.
_BYTES: Final = f"{RESERVED_PREFIX}bytes"
_TOLD: Final = f"{RESERVED_PREFIX}told"
# The turn is not there any more, or nothing can begin with it.
_GONE: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_NOT_FOUND,
        errors_pb2.ERROR_REASON_TURN_STATE,
        errors_pb2.ERROR_REASON_INVALID_FIELD,
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn runs, and how: `batches` are what the session lacks, the last of them the turn's own messages.

    `before` is the turn that the session must be at; None says that it is the request's own, `is_fresh` that no retry
    can find it either. `labels` replace the session's once the answer is durable, None leaves them.
    """

    session: str
    begin: int
    batches: list[Packed]
    before: Bookmark | None = None
    # UTF-8 bytes of the session's texts without the batches.
    text_bytes: int = 0
    is_fresh: bool = False
    labels: Mapping[str, str] | None = None


class Recall:
    """Finds or makes the place of one request; without `metadata` a session keeps its own.

    `tools` are the request's functions: a session whose turn before had others is told of them.
    """

    def __init__(
        self,
        edge: Edge,
        history: History,
        metadata: Mapping[str, str] | None,
        key: str,
        tools: message_pb2.ToolUse | None,
    ) -> None:
        self._edge = edge
        self._history = history
        self._metadata = metadata
        self._tools = tools
        # A request with a key has a session of its own, which every retry finds, whatever has happened meanwhile.
        self._own = session_of_key(edge.tenant, f"chat {key}") if key else ""

    async def place(self) -> Place:
        """The place; InvalidField by the path of a message that can be in none."""
        if self._own and (begun := await self._begun()):
            return begun
        for count in islice(self._history.answered(), self._edge.settings.chat_lookups_count_max):
            mark = await bookmarks.find(self._edge, self._history.states[count])
            if mark is not None:
                place = await self._going_on(mark, count) or await self._forked(mark, count)
                if place is not None:
                    return place
        return await self.new()

    async def elsewhere(self, place: Place) -> Place:
        """Another place, as the session of the first has moved on, or is busy with another turn."""
        assert place.before is not None
        return await self._forked(place.before, place.begin) or await self.new()

    async def new(self) -> Place:
        """A session with all of the history."""
        batches = self._history.batches(0, self._listing())
        session = self._own or new_id(os.urandom, "r")
        asked = session_pb2.Session(labels=self._labels(0, 0, is_told=False))
        try:
            await self._edge.backend.create_session(self._edge.tenant, session, asked)
        except IsthmusError as error:
            if not self._own or error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
                raise
            return await self._begun() or await self.new()
        return Place(session, 0, batches, is_fresh=not self._own)

    async def _begun(self) -> Place | None:
        """The place that an earlier attempt under the key has made."""
        session = await self._read(self._own)
        if session is None:
            return None
        began = [count for count, state in enumerate(self._history.states) if session.labels.get(_BEGAN) == state.hex()]
        if not began or began[0] == len(self._history.messages):
            message = "Idempotency-Key: was used with other messages; expected the same ones, or another key"
            raise IsthmusError(errors_pb2.ERROR_REASON_REQUEST_ID_REUSED, message)
        text_bytes, is_told = int(session.labels.get(_BYTES, "0")), bool(session.labels.get(_TOLD))
        batches = self._history.batches(began[0], None if is_told else self._listing())
        return Place(self._own, began[0], batches, text_bytes=text_bytes)

    async def _going_on(self, mark: Bookmark, count: int) -> Place | None:
        """The session itself, while it is as that turn has left it."""
        turn = mark.turn
        batches = self._history.batches(count, None if await self._is_told(mark) else self._listing())
        # What takes more than the turn to say would be in the way of other turns if this one failed.
        if self._own or len(batches) > 1:
            return None
        session = await self._read(turn.session)
        if session is None or session.text_bytes != mark.text_bytes:
            return None
        is_same = self._metadata is None or metadata_of(session) == self._metadata
        labels = None if is_same else labels_with(session, self._metadata or {})
        return Place(turn.session, count, batches, before=mark, text_bytes=mark.text_bytes, labels=labels)

    async def _forked(self, mark: Bookmark, count: int) -> Place | None:
        """A session that begins as that one was after the turn; None if this is not the beginning any more."""
        turn, is_told = mark.turn, await self._is_told(mark)
        batches = self._history.batches(count, None if is_told else self._listing())
        backend, tenant = self._edge.backend, self._edge.tenant
        fork = self._own or new_id(os.urandom, "r")
        is_labelled = self._own or self._metadata is not None
        labels = self._labels(count, mark.text_bytes, is_told=is_told) if is_labelled else {}
        asked = session_pb2.Session(labels=labels)
        try:
            await backend.fork_session(tenant, turn.session, fork, turn=turn.turn, session=asked)
        except IsthmusError as error:
            if self._own and error.reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS:
                return await self._begun()
            if error.reason not in _GONE:
                raise
            return None
        session = await self._read(fork)
        if session is not None and session.text_bytes == mark.text_bytes:
            return Place(fork, count, batches, text_bytes=mark.text_bytes, is_fresh=not self._own)
        if session is not None:
            await backend.delete_session(tenant, fork)
        return None

    async def _read(self, session: str) -> session_pb2.Session | None:
        try:
            return await self._edge.backend.get_session(self._edge.tenant, session)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
            return None

    def _listing(self) -> message_pb2.Message | None:
        return None if self._tools is None else listing(self._tools)

    async def _is_told(self, mark: Bookmark) -> bool:
        """Whether the turn had the same functions; none are as good as any."""
        if self._tools is None:
            return True
        try:
            turn = await self._edge.backend.get_turn(self._edge.tenant, mark.turn.session, mark.turn.turn)
        except IsthmusError as error:
            if error.reason not in _GONE:
                raise
            return False
        return is_listed(self._tools, turn)

    def _labels(self, count: int, text_bytes: int, *, is_told: bool) -> dict[str, str]:
        labels = labels_of(self._metadata or {}, Origin.RESPONSES)
        if not self._own:
            return labels
        told = {_TOLD: "1"} if is_told else {}
        return {**labels, **told, _BEGAN: self._history.states[count].hex(), _BYTES: str(text_bytes)}
