"""An event in OpenAI's shape, and its signature by Standard Webhooks (https://www.standardwebhooks.com). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b

import msgspec
from isthmus.session.v1 import turn_pb2
from standardwebhooks import Webhook

_ID_BYTES = 16
_BY_STATE = {
    turn_pb2.Turn.STATE_DONE: "response.completed",
    turn_pb2.Turn.STATE_CANCELLED: "response.cancelled",
    turn_pb2.Turn.STATE_FAILED: "response.failed",
    turn_pb2.Turn.STATE_EXPIRED: "response.failed",
}


class EventData(msgspec.Struct, frozen=True):
    """What the event is about, by its id."""

    id: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a webhook."""

    id: str
    object: str = "event"
    created_at: int
    type: str
    data: EventData

    @property
    def body(self) -> bytes:
        """The JSON that is sent, and signed, byte by byte."""
        return msgspec.json.encode(self)


def event_of(job_key: str, response: str, turn: turn_pb2.Turn, created_at: int) -> Event:
    """The event of a closed turn. Its id is the same whoever finds the turn closed, so that receivers see one event."""
    is_cut = turn.state == turn_pb2.Turn.STATE_DONE and turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    kind = "response.incomplete" if is_cut else _BY_STATE[turn.state]
    digest = blake2b(f"{job_key}:{kind}".encode(), digest_size=_ID_BYTES).hexdigest()
    return Event(id=f"evt_{digest}", created_at=created_at, type=kind, data=EventData(response))


def headers(secret: str, event_id: str, body: bytes, now: float) -> dict[str, str]:
    """The headers of one attempt; its time is signed, so that a receiver can refuse an old one."""
    moment = datetime.fromtimestamp(int(now), UTC)
    return {
        "content-type": "application/json",
        "user-agent": "isthmus-webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": Webhook(secret).sign(event_id, moment, body.decode()),
    }
