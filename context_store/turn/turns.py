"""A turn's life as a table: which event may follow which state, and what it comes to. Pure.

Every change of a turn's state is in `TRANSITIONS`; the scripts carry them out and check the same preconditions.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from services.errors import Reason

OPEN: Final = turn_pb2.Turn.STATE_OPEN
DONE: Final = turn_pb2.Turn.STATE_DONE
FAILED: Final = turn_pb2.Turn.STATE_FAILED
CANCELLED: Final = turn_pb2.Turn.STATE_CANCELLED
EXPIRED: Final = turn_pb2.Turn.STATE_EXPIRED


class Event(Enum):
    """What can happen to a turn. All but CANCEL and EXPIRE come from its driver and carry an attempt."""

    COMMIT = "commit"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RENEW = "renew"
    REPLAN = "replan"


TRANSITIONS: Final[dict[tuple[turn_pb2.Turn.State.ValueType, Event], turn_pb2.Turn.State.ValueType]] = {
    (OPEN, Event.COMMIT): DONE,
    (OPEN, Event.FAIL): FAILED,
    (OPEN, Event.CANCEL): CANCELLED,
    (OPEN, Event.EXPIRE): EXPIRED,
    (OPEN, Event.RENEW): OPEN,
    (OPEN, Event.REPLAN): OPEN,
}

# The event that closes a turn into a state; the same event of the same attempt again changes nothing.
_REPEATS: Final = {(DONE, Event.COMMIT), (FAILED, Event.FAIL), (CANCELLED, Event.CANCEL), (EXPIRED, Event.EXPIRE)}

# What a driver learns whose turn was closed by another.
_LOST: Final = {CANCELLED: errors_pb2.ERROR_REASON_TURN_CANCELLED, EXPIRED: errors_pb2.ERROR_REASON_LEASE_LOST}

# What a `requests` entry says of its turn, for the scripts.
LETTERS: Final = {OPEN: b"O", DONE: b"D", FAILED: b"F", CANCELLED: b"C", EXPIRED: b"X"}


class RefusedError(Exception):
    """The event may not follow the state; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(errors_pb2.ErrorReason.Name(reason))
        self.reason = reason


def is_repeat(state: turn_pb2.Turn.State.ValueType, event: Event, is_same_attempt: bool) -> bool:
    """Whether an event found its own effect there already. Raises RefusedError where it may not happen at all.

    False means that it may happen now: the turn is open and the attempt, where the event has one, is the latest.
    """
    if (state, event) in _REPEATS and is_same_attempt:
        return True
    if (state, event) in TRANSITIONS:
        if is_same_attempt:
            return False
        raise RefusedError(errors_pb2.ERROR_REASON_LEASE_LOST)
    if event is Event.CANCEL:
        raise RefusedError(errors_pb2.ERROR_REASON_TURN_STATE)
    if not is_same_attempt:
        raise RefusedError(errors_pb2.ERROR_REASON_LEASE_LOST)
    raise RefusedError(_LOST.get(state, errors_pb2.ERROR_REASON_TURN_STATE))
