"""Loads of replicas: what they announced, kept true by what this gateway did since."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.models.loads import Loads
from services.membership import Member


def replica(name: str, load: int, heartbeat_ms: int) -> Member:
    return Member(name, "inference", "127.0.0.1:1", heartbeat_ms=heartbeat_ms, load=load)


def test_what_others_have_there_counts_beside_what_is_ours() -> None:
    loads = Loads()
    assert loads.seen([replica("r", 5, 1)]) == {"r": 5}
    loads.begin("r")
    loads.begin("r")
    assert loads.seen([replica("r", 5, 1)]) == {"r": 7}, "ours came after that heartbeat"
    assert loads.seen([replica("r", 7, 2)]) == {"r": 7}, "they are in this one"
    loads.end("r")
    assert loads.seen([replica("r", 7, 2)]) == {"r": 6}


def test_ours_count_whatever_was_announced() -> None:
    loads = Loads()
    for _ in range(3):
        loads.begin("r")
    assert loads.seen([replica("r", 0, 1)]) == {"r": 3}


def test_one_that_is_gone_is_not_known_when_it_comes_back() -> None:
    loads = Loads()
    assert loads.seen([replica("r", 5, 1)]) == {"r": 5}
    assert loads.seen([]) == {}
    loads.begin("r")
    assert loads.seen([replica("r", 1, 1)]) == {"r": 1}


def test_a_heartbeat_from_before_ours_ended_makes_no_load_of_them() -> None:
    loads = Loads()
    loads.begin("r")
    loads.end("r")
    assert loads.seen([replica("r", 1, 1)]) == {"r": 0}
    assert loads.seen([replica("r", 1, 2)]) == {"r": 1}, "still there: it is another's"


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), max_size=40))
def test_between_heartbeats_it_is_off_by_the_others_changes_alone(steps: list[tuple[int, int, bool]]) -> None:
    """Ours and others' requests come and go; the announcement is exact when it is made and seen at once.

    Others may be missed, by no more than have ended of ours since the heartbeat before.
    """
    loads = Loads()
    own = others = announced_others = heartbeat_ms = peak = missed = 0
    member = replica("r", 0, 0)
    for ours_more, others_more, beats in steps:
        ours_more, others_more = max(ours_more, -own), max(others_more, -others)
        own, others = own + ours_more, others + others_more
        peak = max(peak, own)
        for _ in range(abs(ours_more)):
            (loads.begin if ours_more > 0 else loads.end)("r")
        if beats:
            heartbeat_ms += 1
            announced_others, missed = others, min(others, peak - own)
            member = replica("r", own + others, heartbeat_ms)
        assert loads.seen([member]) == {"r": own + announced_others - missed}
        if beats:
            peak = own
