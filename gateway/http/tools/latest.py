"""The turn that a conversation has come to."""

from __future__ import annotations

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from gateway.http.edge import Edge
from services.errors import IsthmusError


async def latest_turn(edge: Edge, session: str, request_id: str) -> turn_pb2.Turn | None:
    """The latest turn before the one of this request, which a retry may find there already; None where none was.

    NOT_FOUND if there is no such session.
    """
    number = (await edge.backend.get_session(edge.tenant, session)).turn_count
    while number > 0:
        try:
            turn = await edge.backend.get_turn(edge.tenant, session, number)
        except IsthmusError as error:
            # A fork counts turns that are its parent's.
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
            return None
        if not request_id or turn.request_id != request_id:
            return turn
        number -= 1
    return None
