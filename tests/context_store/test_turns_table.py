"""The table of a turn's life, every pair of it."""

from __future__ import annotations

import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from context_store.turn import turns
from context_store.turn.turns import CANCELLED, DONE, EXPIRED, FAILED, OPEN, Event

LOST = errors_pb2.ERROR_REASON_LEASE_LOST
WRONG = errors_pb2.ERROR_REASON_TURN_STATE
GONE = errors_pb2.ERROR_REASON_TURN_CANCELLED


@pytest.mark.parametrize("event", Event)
def test_an_open_turn_allows_everything_to_its_driver(event: Event) -> None:
    assert not turns.is_repeat(OPEN, event, is_same_attempt=True)
    assert (OPEN, event) in turns.TRANSITIONS


@pytest.mark.parametrize("event", [Event.COMMIT, Event.FAIL, Event.RENEW, Event.REPLAN])
@pytest.mark.parametrize("state", [OPEN, DONE, FAILED, EXPIRED])
def test_a_former_driver_has_lost_the_turn(state: turn_pb2.Turn.State.ValueType, event: Event) -> None:
    with pytest.raises(turns.RefusedError) as refused:
        turns.is_repeat(state, event, is_same_attempt=False)
    assert refused.value.reason == LOST


@pytest.mark.parametrize(
    ("state", "event"), [(DONE, Event.COMMIT), (FAILED, Event.FAIL), (CANCELLED, Event.CANCEL), (EXPIRED, Event.EXPIRE)]
)
def test_the_same_again_changes_nothing(state: turn_pb2.Turn.State.ValueType, event: Event) -> None:
    assert turns.is_repeat(state, event, is_same_attempt=True)


@pytest.mark.parametrize(
    ("state", "event", "reason"),
    [
        (CANCELLED, Event.COMMIT, GONE),
        (CANCELLED, Event.FAIL, GONE),
        (CANCELLED, Event.RENEW, GONE),
        (CANCELLED, Event.REPLAN, GONE),
        (EXPIRED, Event.COMMIT, LOST),
        (EXPIRED, Event.RENEW, LOST),
        (DONE, Event.FAIL, WRONG),
        (DONE, Event.CANCEL, WRONG),
        (DONE, Event.RENEW, WRONG),
        (FAILED, Event.COMMIT, WRONG),
        (FAILED, Event.CANCEL, WRONG),
        (EXPIRED, Event.CANCEL, WRONG),
    ],
)
def test_a_closed_turn_says_why_not(
    state: turn_pb2.Turn.State.ValueType, event: Event, reason: errors_pb2.ErrorReason.ValueType
) -> None:
    with pytest.raises(turns.RefusedError) as refused:
        turns.is_repeat(state, event, is_same_attempt=True)
    assert refused.value.reason == reason


def test_every_state_has_its_letter() -> None:
    assert set(turns.LETTERS) == set(turn_pb2.Turn.State.values()) - {turn_pb2.Turn.STATE_UNSPECIFIED}
    assert len(set(turns.LETTERS.values())) == len(turns.LETTERS)
