"""Lists: pages by id, filters, and both at many sessions."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2

from context_store.session.filters import FilterError, parse
from services.config import Settings
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard

texts = st.text(max_size=12)
numbers = st.integers(-5, 5)
times = st.integers(0, 10)
ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,3}", fullmatch=True)
comparators = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def stamp(seconds: int) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=seconds)


@st.composite
def sessions(draw: st.DrawFn) -> session_pb2.Session:
    return session_pb2.Session(
        name=f"sessions/{draw(ids)}",
        display_name=draw(texts),
        labels=draw(st.dictionaries(st.sampled_from(["a", "b"]), texts)),
        turn_count=draw(numbers),
        create_time=stamp(draw(times)),
        tier=draw(st.sampled_from([session_pb2.TIER_VALKEY, session_pb2.TIER_OBJECT])),
    )


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, Any]:
    """A condition, and what it means in Python."""
    kind = draw(st.sampled_from(["display_name", "part", "label", "turn_count", "create_time", "name", "tier"]))
    compared = draw(comparators)
    python = "==" if compared == "=" else compared
    match kind:
        case "display_name":
            text = draw(texts)
            return f"display_name = {quoted(text)}", lambda one: one.display_name == text
        case "part":
            text = draw(texts)
            return f"display_name:{quoted(text)}", lambda one: text in one.display_name
        case "label":
            key, text = draw(st.sampled_from(["a", "b"])), draw(texts)
            return f"labels.{key}={quoted(text)}", lambda one: key in one.labels and one.labels[key] == text
        case "turn_count":
            number = draw(numbers)
            return f"turn_count {compared} {number}", lambda one: eval(f"{one.turn_count} {python} {number}")
        case "create_time":
            seconds = draw(times)
            text = quoted(stamp(seconds).ToJsonString())
            return (
                f"create_time{compared}{text}",
                lambda one: eval(f"{one.create_time.seconds} {python} {seconds}"),
            )
        case "name":
            name = f"sessions/{draw(ids)}"
            return f"name {compared} {quoted(name)}", lambda one: eval(f"{one.name!r} {python} {name!r}")
        case _:
            return "tier = TIER_OBJECT", lambda one: one.tier == session_pb2.TIER_OBJECT


@given(st.lists(conditions(), max_size=4), st.lists(sessions(), max_size=5))
def test_a_filter_takes_what_all_its_conditions_take(asked: list[tuple[str, Any]], every: list[Any]) -> None:
    wanted = parse(" AND ".join(text for text, _ in asked))
    for session in every:
        takes = all(meaning(session) for _, meaning in asked)
        assert wanted.takes(session) == takes
        if takes:
            session_id = session.name.removeprefix("sessions/")
            assert session_id > wanted.after
            assert not wanted.is_past(session_id)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_says_where_it_is_none(text: str) -> None:
    position = 0
    try:
        parse(text)
    except FilterError as error:
        position = error.position
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("labels.a", 8, "a comparator"),
        ("labels.a =", 10, "a value"),
        ('labels.a = "x" OR labels.b = "y"', 15, "AND"),
        ('labels.a = "x" AND', 18, "a field"),
        ("colour = red", 0, "labels.KEY"),
        ("turn_count > many", 13, "a whole number"),
        ("turn_count : 3", 11, "other than :"),
        ('create_time > "yesterday"', 14, "RFC 3339"),
        ("tier = COLD", 7, "TIER_OBJECT"),
        ('labels.a > "x"', 9, "= or !="),
        ("tier = TIER_OBJECT AND " * 32 + "tier = TIER_OBJECT", 736, "at most 32 conditions"),
    ],
)
def test_what_is_wrong_with_a_filter_is_said(text: str, position: int, expected: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse(text)
    assert raised.value.position == position
    assert expected in raised.value.expected


async def pages(store: StoreClient, size: int, filter_text: str = "") -> list[list[str]]:
    """The ids of all pages."""
    found: list[list[str]] = []
    page = api.ListSessionsResponse()
    while not found or page.next_page_token:
        page = await store.stub.ListSessions(
            api.ListSessionsRequest(tenant="acme", page_size=size, page_token=page.next_page_token, filter=filter_text)
        )
        found.append([one.name.removeprefix("sessions/") for one in page.sessions])
    return found


async def test_a_filtered_page_looks_at_no_more_names_than_it_may(start_shard: StartShard, settings: Settings) -> None:
    few = settings.store.model_copy(update={"list_scan_count_max": 100})
    store = await start_shard(settings.model_copy(update={"store": few}))
    names = [f"s{number:03}" for number in range(250)]
    for name in names:
        await store.about(name).create(labels={"rare": "yes"} if name == "s180" else {})
    found = await pages(store, 10, 'labels.rare = "yes"')
    assert [len(page) for page in found] == [0, 1, 0]
    assert [name for page in await pages(store, 7) for name in page] == names
    between = await pages(store, 50, 'name > "sessions/s100" AND name < "sessions/s105"')
    assert [name for page in between for name in page] == ["s101", "s102", "s103", "s104"]


async def test_pages_stay_where_they_are_while_sessions_come_and_go(store: StoreClient) -> None:
    for name in ("b", "d", "f"):
        await store.about(name).create()
    first = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme", page_size=2))
    await store.about("a").create()
    await store.about("e").create()
    await store.about("d").delete()
    request = api.ListSessionsRequest(tenant="acme", page_size=9, page_token=first.next_page_token)
    rest = await store.stub.ListSessions(request)
    assert [one.name for one in rest.sessions] == ["sessions/e", "sessions/f"]


async def test_a_page_token_is_of_one_filter(store: StoreClient) -> None:
    for name in ("a", "b"):
        await store.about(name).create()
    page = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme", page_size=1, filter="turn_count = 0"))
    other = api.ListSessionsRequest(tenant="acme", page_token=page.next_page_token, filter="turn_count = 1")
    assert (await refusal(store.stub.ListSessions(other)))[1] == "INVALID_PAGE_TOKEN"
    wrong = store.stub.ListSessions(api.ListSessionsRequest(tenant="acme", filter="turn_count"))
    assert (await refusal(wrong))[1] == "INVALID_FIELD"


async def test_what_a_list_shows_is_what_the_filter_sees(store: StoreClient) -> None:
    await store.create(labels={"team": "red"})
    await store.turn("r1", "hello")
    await store.fork("s2")
    for text, expected in [
        ("turn_count >= 1", ["s1", "s2"]),
        ('parent = "sessions/s1"', ["s2"]),
        ('labels.team = "red" AND parent = ""', ["s1"]),
        ('touch_time > "2026-01-01T00:00:00Z" AND tier = TIER_VALKEY', ["s1", "s2"]),
        ("tier = TIER_OBJECT", []),
    ]:
        assert [name for page in await pages(store, 10, text) for name in page] == expected
