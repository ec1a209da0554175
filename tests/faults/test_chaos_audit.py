"""What `isthmus chaos` calls lost, doubled and reordered, and how long it says that service was away."""

from __future__ import annotations

import pytest
from isthmus.session.v1 import fragment_pb2

from services.cli.chaos.audit import SessionLog, Stored, Verdict, compare
from services.cli.chaos.ledger import Acknowledged, Ledger

MESSAGE, REPLY = fragment_pb2.FRAGMENT_KIND_MESSAGE, fragment_pb2.FRAGMENT_KIND_REPLY
TOLD = [Acknowledged("s", f"message {n}", f"reply {n}", n, float(n), n + 0.5, "shard") for n in (1, 2, 3)]


def log(*fragments: tuple[int, int, str], missing: tuple[int, ...] = ()) -> SessionLog:
    """Fragments as (kind, turn, text), numbered from 1 on."""
    return SessionLog(tuple(Stored(n, *each) for n, each in enumerate(fragments, 1)), missing)


def turn(number: int) -> list[tuple[int, int, str]]:
    return [(MESSAGE, number, f"message {number}"), (REPLY, number, f"reply {number}")]


def verdict(found: SessionLog, *unsure: str) -> tuple[int, int, int]:
    result = Verdict()
    compare(result, TOLD, unsure, found)
    assert bool(result.findings) is not result.kept
    return result.lost, result.doubled, result.reordered


def test_what_was_told_once_and_in_order_is_kept() -> None:
    assert verdict(log(*turn(1), *turn(2), *turn(3))) == (0, 0, 0)


def test_what_was_sent_and_never_acknowledged_may_be_there_or_not() -> None:
    extra = [(MESSAGE, 4, "message 4"), (REPLY, 4, "reply 4")]
    assert verdict(log(*turn(1), *turn(2), *turn(3), *extra), "message 4", "message 5") == (0, 0, 0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (log(*turn(1), *turn(3)), (1, 0, 0)),
        (log(*turn(1), turn(2)[0], *turn(3)), (1, 0, 0)),
        (log(*turn(1), turn(2)[0], (REPLY, 2, "another reply"), *turn(3)), (1, 0, 0)),
        (log(*turn(1), *turn(2), *turn(3), missing=(4,)), (1, 0, 0)),
        (log(), (3, 0, 0)),
        (log(*turn(1), *turn(2), *turn(3), (MESSAGE, 4, "message 2")), (0, 1, 0)),
        (log(*turn(1), *turn(2), *turn(3), (REPLY, 3, "reply 3")), (0, 1, 0)),
        (log(*turn(1), *turn(2), *turn(3), *turn(9)), (0, 1, 0)),
        (log(*turn(1), *turn(3), *turn(2)), (0, 0, 1)),
    ],
)
def test_what_is_wrong_is_counted(found: SessionLog, expected: tuple[int, int, int]) -> None:
    assert verdict(found) == expected


def ledger(*turns: tuple[str, float, float]) -> Ledger:
    """Acknowledged turns as (session, begun, at)."""
    made = Ledger(("a", "b"))
    for number, (session, begun, at) in enumerate(turns, 1):
        made.acknowledge(Acknowledged(session, f"{number}", "", number, begun, at, f"shard-{number}"))
    return made


def test_service_is_away_until_the_last_session_is_served_by_a_turn_begun_after_the_fault() -> None:
    told = ledger(("a", 9.9, 10.1), ("a", 10.2, 10.4), ("b", 9.0, 10.05), ("b", 10.3, 12.5))
    assert told.away_s(10.0, 13.0) == pytest.approx(2.5)
    assert told.all_served_since(10.0)
    assert not told.all_served_since(10.25)


def test_a_second_loss_of_service_before_the_mesh_is_whole_counts() -> None:
    told = ledger(("a", 10.0, 10.1), ("a", 11.0, 14.0), ("a", 20.0, 30.0), ("b", 10.0, 10.1))
    assert told.away_s(10.0, 12.0) == pytest.approx(3.0)
    assert told.moves() == 2
