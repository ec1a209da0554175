"""What a gateway remembers of where sessions were served, and what a receipt says of a placement."""

from __future__ import annotations

import pytest
from isthmus.context.v1 import window_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import turn_pb2

from gateway.models.placements import Placements, placement
from services.placement import Choice

SPILLED = turn_pb2.Placement.REASON_SPILLED
CHOICE = Choice("r2", "r1", SPILLED)


def test_the_replica_that_served_last_is_the_warm_one_of_the_tenants_session() -> None:
    placements = Placements(10)
    assert placements.warm("t", "s") == ""
    placements.served("t", "s", "r1")
    placements.served("t", "s", "r2")
    assert placements.warm("t", "s") == "r2"
    assert placements.warm("other", "s") == ""


def test_the_sessions_seen_last_are_remembered_and_no_more() -> None:
    placements = Placements(2)
    for session in ("s1", "s2", "s1", "s3"):
        placements.served("t", session, "r")
    assert len(placements) == 2
    assert [bool(placements.warm("t", session)) for session in ("s1", "s2", "s3")] == [True, False, True]


def test_no_room_remembers_nothing() -> None:
    placements = Placements(0)
    placements.served("t", "s", "r")
    assert placements.warm("t", "s") == ""


def manifest(items: int, prefix: int, *tokens: int) -> window_pb2.Manifest:
    return window_pb2.Manifest(
        end=window_pb2.Checkpoint(item_count=items),
        prefix=window_pb2.Checkpoint(item_count=prefix),
        new_items=[window_pb2.WindowItem(tokens=each) for each in tokens],
    )


@pytest.mark.parametrize(
    ("given", "pulled_items", "new_tokens", "missed"),
    [
        (manifest(9, 7, 20, 30), 0, 56, 0),  # a delta on a window that is there
        (manifest(9, 7), 2, 40_000, 0),  # a delta that is too large for the manifest
        (manifest(9, 7, 20, 30), 9, 1_056, 1_000),  # a window that is not there
        (manifest(9, 0), 9, 1_006, 0),  # a new epoch, which no replica has
        (manifest(9, 7, 900, 900), 9, 1_056, 0),  # by estimates that were too large
    ],
)
def test_missed_is_what_another_replica_may_have_had(
    given: window_pb2.Manifest, pulled_items: int, new_tokens: int, missed: int
) -> None:
    started = inference_service_pb2.GenerateResponse.Started(
        new_tokens=new_tokens, pulled_items=pulled_items, pull_ms=2.0, tokenize_ms=0.5
    )
    assert placement(CHOICE, given, started, overhead_tokens=6) == turn_pb2.Placement(
        reason=SPILLED, owner="r1", missed_tokens=missed, missed_ms=2.5
    )
