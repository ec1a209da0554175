"""A turn that somebody else drives, or that is done: told piece by piece from the store."""

from __future__ import annotations

from typing import Final

from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.shards import Shards
from gateway.turn.calls import Place, wait_turn
from gateway.turn.output import Output, pieces_of, sourced
from services.config import GatewaySettings
from services.errors import IsthmusError

Event = session_service_pb2.RunTurnResponse

# How a turn fails whose own caller ended it: the same request may be run anew at once.
CALLER_GONE: Final = frozenset({errors_pb2.ERROR_REASON_TURN_CANCELLED, errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED})


class Follower:
    """Follows turns of one session; what they say is told to `output` from its `piece` on."""

    def __init__(self, shards: Shards, settings: GatewaySettings, place: Place, output: Output) -> None:
        self._shards = shards
        self._settings = settings
        self._place = place
        self._output = output

    async def look(self, turn: int) -> context_service_pb2.WaitTurnResponse:
        """The turn as it stands. Tells nothing."""
        return await wait_turn(self._shards, self._place, turn, b"", None, 0)

    async def wait(self, turn: int, incarnation: bytes) -> context_service_pb2.WaitTurnResponse:
        """The turn once it is closed or nobody drives it any more. Tells nothing."""
        while True:
            waited = await wait_turn(self._shards, self._place, turn, incarnation, None, self._settings.wait_turn_ms)
            if waited.lease_lapsed or waited.turn.state != turn_pb2.Turn.STATE_OPEN:
                return waited

    async def follow(self, turn: int, incarnation: bytes) -> context_service_pb2.WaitTurnResponse:
        """The turn once it is closed, or nobody drives it or reads it any more; tells what it says until then."""
        while True:
            after, wait_ms = self._output.piece, self._settings.wait_turn_ms
            waited = await wait_turn(self._shards, self._place, turn, incarnation, after, wait_ms)
            for number, piece in enumerate(waited.pieces, after + 1):
                self._output.tell_piece(number, piece)
            is_closed = waited.turn.state != turn_pb2.Turn.STATE_OPEN
            if is_closed or (waited.lease_lapsed and not waited.pieces) or self._output.is_left:
                return waited


def tell_closed(turn: turn_pb2.Turn, output: Output) -> None:
    """What was not told yet of a turn that is done, and `done`. Raises what it ended with, if that was no reply."""
    if turn.state == turn_pb2.Turn.STATE_CANCELLED:
        raise IsthmusError(errors_pb2.ERROR_REASON_TURN_CANCELLED, f"{turn.name} was cancelled")
    if turn.state == turn_pb2.Turn.STATE_EXPIRED:
        message = f"{turn.name} expired: its driver was lost, and another turn was opened before anybody took it over"
        raise IsthmusError(errors_pb2.ERROR_REASON_LEASE_LOST, message)
    if turn.state != turn_pb2.Turn.STATE_DONE:
        raise IsthmusError(turn.error.reason, turn.error.message)
    if turn.receipt.HasField("cache"):
        output.tell(sourced(turn.receipt.cache))
    for number, piece in enumerate(pieces_of(turn.output_text, turn.piece_bytes), 1):
        output.tell_piece(number, piece)
    output.tell(Event(done=Event.Done(turn=turn)))


def runs_anew(turn: turn_pb2.Turn) -> bool:
    """Whether the request of a closed turn had better be run again: its caller had ended it, or its driver was lost."""
    if turn.state == turn_pb2.Turn.STATE_FAILED:
        return turn.error.reason in CALLER_GONE
    return turn.state == turn_pb2.Turn.STATE_EXPIRED


def accepted(turn: turn_pb2.Turn, *, attached: bool) -> Event:
    """The first event of a turn."""
    return Event(
        accepted=Event.Accepted(
            turn=turn.name,
            request_id=turn.request_id,
            attached=attached,
            attempt=turn.attempt,
            create_time=turn.create_time,
            model=turn.model,
        )
    )
