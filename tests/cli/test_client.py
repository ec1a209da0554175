from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2, turn_pb2

from services.cli.client import Patience, Reply, session_name
from services.cli.commands import explain
from services.cli.output import placement_lines, receipt_lines, window_lines
from services.cli.plain import plain
from services.errors import InvalidField, IsthmusError, UpstreamUnavailable


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)), st.data())
def test_a_reply_told_twice_is_shown_once(first: list[str], second: list[str], data: st.DataObject) -> None:
    whole = "".join(first)
    cut = data.draw(st.integers(0, len(first)))
    reply = Reply()
    reply.begin()
    shown = [reply.feed(each) for each in first[:cut]]
    reply.begin()
    shown += [reply.feed(each) for each in [whole, *second]]
    assert "".join(shown) == whole + "".join(second)


def test_a_reply_that_begins_anew_says_so() -> None:
    reply = Reply()
    reply.begin()
    assert reply.feed("once upon") == "once upon"
    reply.begin()
    assert reply.feed("once") == ""
    retold = reply.feed(" more")
    assert retold.endswith("begins anew]\nonce more")
    assert reply.feed(" and on") == " and on"


def test_patience_ends_and_is_renewed_by_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    patience = Patience(1_000)
    away = UpstreamUnavailable("away", retry_after_ms=400)
    patience.wait(away)
    patience.wait(away)
    with pytest.raises(UpstreamUnavailable):
        patience.wait(away)
    patience.renew()
    patience.wait(away)


def test_patience_does_not_wait_where_waiting_does_not_help() -> None:
    error = IsthmusError(errors_pb2.ERROR_REASON_NOT_FOUND, "no")
    with pytest.raises(IsthmusError):
        Patience().wait(error)


def test_a_message_becomes_plain_python() -> None:
    session = session_pb2.Session(name="sessions/x", labels={"b": "2", "a": "1"}, revision=1 << 40)
    session.create_time.FromSeconds(0)
    assert plain(session) | {"labels": {}} == {
        **dict.fromkeys(("display_name", "etag", "parent"), ""),
        **dict.fromkeys(("window_tokens_max", "turn_count", "open_turn", "text_bytes", "tokens"), 0),
        **dict.fromkeys(("summary_count", "epoch", "parent_turn"), 0),
        **dict.fromkeys(("durability", "tier"), "unspecified"),
        "name": "sessions/x",
        "labels": {},
        "revision": 1 << 40,
        "create_time": "1970-01-01T00:00:00Z",
    }
    assert list(plain(session)["labels"].items()) == [("a", "1"), ("b", "2")]


def test_enums_bytes_and_nested_messages_become_plain() -> None:
    turn = turn_pb2.Turn(state=turn_pb2.Turn.STATE_DONE, finish_reason=turn_pb2.FINISH_REASON_LENGTH)
    turn.receipt.window.digest = b"\x01\xff"
    turn.receipt.tokens.cached_tokens = 0
    turn.error.reason = errors_pb2.ERROR_REASON_ENGINE_FAILED
    document = plain(turn)
    assert document["state"] == "done"
    assert document["finish_reason"] == "length"
    assert document["receipt"]["window"]["digest"] == "01ff"
    assert document["receipt"]["tokens"]["cached_tokens"] == 0
    assert "cached_tokens" not in plain(turn_pb2.TokenCounts())
    assert document["error"]["reason"] == "engine_failed"
    assert "params" not in document


def test_a_receipt_says_what_was_left_out() -> None:
    receipt = turn_pb2.Receipt(ttft_ms=12.4)
    receipt.window.left_out.add(
        first_sequence=3, last_sequence=9, tokens=1_234, reason=turn_pb2.LeftOut.REASON_NOT_SUMMARISED
    )
    receipt.window.left_out_more = 2
    lines = receipt_lines(receipt)
    assert any("first token after 12 ms" in line for line in lines)
    assert "left out fragments 3 to 9, 1,234 tokens: no summary was ready" in lines
    assert "left out 2 more spans" in window_lines(receipt.window)


def test_a_receipt_says_who_served_in_whose_place_and_who_went_on() -> None:
    receipt = turn_pb2.Receipt()
    assert placement_lines(receipt) == []
    receipt.placement.MergeFrom(turn_pb2.Placement(reason=turn_pb2.Placement.REASON_OWNER, owner="inference-0"))
    assert placement_lines(receipt) == []
    receipt.placement.MergeFrom(
        turn_pb2.Placement(reason=turn_pb2.Placement.REASON_SPILLED, missed_tokens=1_200, missed_ms=33.3)
    )
    receipt.continuations.add(
        replica="inference-1", emitted_tokens=17, pause_ms=250.4, reason=errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    )
    assert placement_lines(receipt) == [
        "placed   in place of inference-0, which had its share of the load: 1,200 tokens missed, "
        "window ready after 33 ms",
        "went on  at inference-1 after 17 tokens and a pause of 250 ms: UPSTREAM_UNAVAILABLE",
    ]
    assert receipt_lines(receipt)[-2:] == placement_lines(receipt)


def test_an_error_is_one_line_with_its_reason() -> None:
    bad = explain(InvalidField("messages[0].text", "must be at least 1 bytes"), "host:1")
    assert bad.reason == "INVALID_FIELD"
    assert str(bad) == "messages[0].text: must be at least 1 bytes"
    away = explain(UpstreamUnavailable("nobody\nlistens"), "host:1")
    assert str(away) == "the gateway at host:1 cannot serve this now: nobody listens"


def test_a_session_may_be_given_by_its_full_name() -> None:
    assert session_name("x") == session_name("sessions/x") == "sessions/x"
