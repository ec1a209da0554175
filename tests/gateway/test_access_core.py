"""What decides at the gate, without I/O: the table of scopes, the cache's bounds, what is logged, what a call shows."""

from __future__ import annotations

import pytest
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import session_service_pb2

from gateway.access import needs
from gateway.access.cache import KeyCache
from gateway.access.gate import bearer
from gateway.access.refusals import Tally
from services.access import MalformedKey, Record, Scope, mint
from services.access.scopes import DEFAULT

KEY = mint(lambda count: bytes(range(count)))


def record(key_id: str) -> Record:
    """A key's record."""
    return Record(id=key_id, tenant="acme", digest=bytes(32), scopes=DEFAULT, create_ms=1)


def test_the_table_names_every_rpc_once_and_nothing_else() -> None:
    named = [name for row in needs.TABLE for name in row.rpcs]
    sessions = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].methods
    operations = operations_pb2.DESCRIPTOR.services_by_name["Operations"].methods
    assert sorted(named) == sorted(method.name for method in (*sessions, *operations))
    assert needs.of_rpc("/google.longrunning.Operations/DeleteOperation") is Scope.SESSIONS_WRITE
    routes = [route for row in needs.TABLE for route in row.routes]
    assert len(routes) == len(set(routes))


def test_what_the_table_does_not_name_needs_admin() -> None:
    assert needs.of_rpc("/isthmus.session.v1.SessionService/RunTurn") is Scope.TURNS
    assert needs.of_rpc("/isthmus.session.v1.SessionService/Invented") is Scope.ADMIN
    assert needs.of_rpc("/another.Service/RunTurn") is Scope.ADMIN
    assert needs.of_route("GET", "/v1/responses/{response_id}") is Scope.SESSIONS_READ
    assert needs.of_route("PATCH", "/v1/responses/{response_id}") is Scope.ADMIN


@pytest.mark.parametrize(
    ("template", "is_open"),
    [
        ("/healthz", True),
        ("/metrics", True),
        ("/schema/openapi.json", True),
        ("/schemas", False),
        ("/v1/models", False),
        ("unmatched", False),
        ("", False),
    ],
)
def test_only_what_probes_and_generators_ask_is_open(template: str, is_open: bool) -> None:
    assert needs.is_open(template) is is_open


asked = st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.integers(0, 30))


@given(st.lists(asked, max_size=60), st.integers(1, 4))
def test_the_cache_keeps_within_its_bound_and_tells_nothing_old(puts: list[tuple[str, bool, int]], bound: int) -> None:
    cache = KeyCache(ms_max=10, count_max=bound)
    now, last = 0, dict[str, tuple[bool, int]]()
    for key_id, is_key, wait in puts:
        now += wait
        cache.put(key_id, record(key_id) if is_key else None, now)
        last[key_id] = (is_key, now)
        assert len(cache) <= 2 * bound
        for each, (was_key, put_at) in last.items():
            known = cache.get(each, now)
            if known is not None:
                assert now - put_at < 10
                assert (known.record is not None) == was_key
    if puts:
        assert cache.get(puts[-1][0], now) is not None


@given(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans())
def test_of_two_answers_the_one_asked_for_later_counts(first: int, second: int, was_key: bool, is_key: bool) -> None:
    cache = KeyCache(ms_max=10, count_max=3)
    cache.put("one", record("one") if was_key else None, first)
    cache.put("one", record("one") if is_key else None, second)
    known = cache.get("one", max(first, second))
    assert known is not None
    assert (known.record is not None) == (is_key if second >= first else was_key)
    assert len(cache) == 1


@given(st.integers(1, 1_000))
def test_invented_ids_drive_out_no_key(count: int) -> None:
    cache = KeyCache(ms_max=10, count_max=3)
    cache.put("real", record("real"), 0)
    for number in range(count):
        cache.put(f"invented {number}", None, 0)
    assert len(cache) <= 4
    assert cache.get("real", 0) is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.9)), max_size=200), st.integers(0, 12))
def test_every_refusal_is_told_or_counted_and_not_more_than_the_bound(
    refusals: list[tuple[str, float]], bound: int
) -> None:
    tally = Tally(bound)
    told, counted, now = 0, 0, 0.0
    for reason, wait in refusals:
        now += wait
        closes_in = tally.closes_in(now)
        if closes_in == 0.0:
            counted += sum(tally.close().values())
            told_now = 0
        elif closes_in is None:
            told_now = 0
        if tally.tells(reason, now):
            told, told_now = told + 1, told_now + 1
        assert told_now <= bound
    counted += sum(tally.close().values())
    assert told + counted == len(refusals)
    assert tally.closes_in(now) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_shown_as_a_bearer_token(scheme: str) -> None:
    assert bearer([f"{scheme} {KEY.text}"]) == KEY


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([], "no API key came with the call"),
        ([f"Bearer {KEY.text}"] * 2, "2 credentials came with the call"),
        ([KEY.text], "not of the scheme Bearer"),
        ([f"Basic {KEY.text}"], "not of the scheme Bearer"),
        (["Bearer"], "it does not begin with isk-"),
        (["Bearer none"], "it does not begin with isk-"),
        ([f"Bearer {KEY.text[:-1]}"], "it has 55 characters, expected 56"),
        ([f"Bearer {KEY.text[:-1]}-"], "it holds characters other than"),
    ],
)
def test_what_a_call_shows_instead_of_a_key_is_told(shown: list[str], said: str) -> None:
    with pytest.raises(MalformedKey, match=said):
        bearer(shown)
