"""`ask`, `chat` and `sessions`."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.cli.conftest import COMMAND_S_MAX, Isthmus, end


def test_ask_begins_a_session_and_goes_on_with_it(isthmus: Isthmus) -> None:
    first = isthmus("ask", "What", "is", "an", "isthmus?", "--json").json
    second = isthmus("ask", "And", "a strait?", "--session", first["session"], "--json").json

    assert first["turn"]["state"] == "done"
    assert first["text"]
    assert second["session"] == first["session"]
    assert second["turn"]["number"] == 2
    assert second["turn"]["receipt"]["tokens"]["window_tokens"] > first["turn"]["receipt"]["tokens"]["window_tokens"]


def test_ask_streams_the_reply_and_tells_its_cost_apart(isthmus: Isthmus) -> None:
    result = isthmus("ask", "-", "--session", "streamed", stdin="A question from a pipe\n")
    turn = isthmus("ask", "Another one", "--session", "streamed", "--json").json["turn"]

    assert result.code == 0
    assert result.out.strip()
    assert "tokens" not in result.out
    assert "first token after" in result.err
    assert turn["number"] == 2


def test_an_empty_question_is_a_usage_error(isthmus: Isthmus) -> None:
    error = isthmus("ask", " ", "--json").error
    assert error["reason"] == "USAGE"
    assert "expected a message" in error["message"]


def test_chat_runs_a_turn_a_line(isthmus: Isthmus) -> None:
    document = isthmus("chat", "--session", "talk", "--json", stdin="One\n\n  Two  \n").json
    assert document["session"] == "talk"
    assert [each["turn"]["number"] for each in document["turns"]] == [1, 2]

    plain = isthmus("chat", "--session", "talk", stdin="Three\n")
    assert plain.code == 0
    assert plain.out.strip()


def test_sessions_are_listed_shown_and_deleted(isthmus: Isthmus) -> None:
    isthmus("ask", "Remember me", "--session", "short-lived", "--json")

    assert "sessions/short-lived" in _names(isthmus("sessions", "--json").json)
    shown = isthmus("sessions", "show", "short-lived", "--json").json
    assert shown["session"]["turn_count"] == 1
    assert shown["window"]["window"]["item_count"] >= 2
    assert shown["window"]["tokens"] > 0
    assert [each["state"] for each in shown["turns"]] == ["done"]
    people = isthmus("sessions", "show", "short-lived")
    assert "1 turns, no turn is open" in people.out

    deleted = isthmus("sessions", "delete", "short-lived", "--json").json
    assert deleted["deleted"] == ["short-lived"]
    assert {"log", "window"} <= {erasure["kind"] for erasure in deleted["receipts"][0]["erasures"]}
    assert "sessions/short-lived" not in _names(isthmus("sessions", "list", "--json").json)
    assert isthmus("sessions", "show", "short-lived", "--json").error["reason"] == "NOT_FOUND"
    assert isthmus("sessions", "delete", "short-lived", "--json").error["reason"] == "NOT_FOUND"


def test_a_list_goes_on_where_it_was_cut(isthmus: Isthmus) -> None:
    for number in range(3):
        isthmus("ask", "Hello", "--session", f"page-{number}", "--json")
    every = _names(isthmus("sessions", "list", "--json").json)
    first = isthmus("sessions", "list", "--limit", "2", "--json").json
    rest = isthmus("sessions", "list", "--after", first["next_page_token"], "--json").json
    assert _names(first) + _names(rest) == every


def test_errors_say_where_and_why_and_never_trace(isthmus: Isthmus, alone: Isthmus, up: Any) -> None:
    bad = isthmus("ask", "hi", "--session", "No Such Name!", "--json").error
    assert bad["reason"] == "INVALID_FIELD"
    nowhere = alone("ask", "hi")
    assert nowhere.code == 1
    assert nowhere.err.startswith("isthmus: no mesh runs on ")
    assert "isthmus up" in nowhere.err
    assert alone("sessions", "--json").error["reason"] == "MESH_NOT_FOUND"
    assert alone("sessions", "--grpc", "nonsense", "--json").error["reason"] == "USAGE"
    assert alone("sessions", "--grpc", up["grpc"], "--json").json["sessions"]


def _names(document: Any) -> list[str]:
    return [each["name"] for each in document["sessions"]]


def test_ctrl_c_cancels_the_turn(isthmus: Isthmus) -> None:
    asking = isthmus.spawn("ask", "A question", "--session", "interrupted")
    assert asking.stdout is not None
    assert asking.stdout.read(1)
    end(asking, signal.SIGINT)

    assert asking.returncode == 130
    (turn,) = isthmus("sessions", "show", "interrupted", "--json").json["turns"]
    assert turn["state"] == "cancelled"
    assert isthmus("ask", "Another", "--session", "interrupted", "--json").json["turn"]["state"] == "done"


def test_chat_on_a_terminal(isthmus: Isthmus) -> None:
    """A whole conversation: a turn, one that is cancelled, and leaving by Ctrl-D."""
    screen, terminal = os.openpty()
    chat = isthmus.spawn("chat", "--session", "terminal", terminal=terminal)
    os.close(terminal)
    _read_until(screen, "> ")
    os.write(screen, b"Hello\n")
    _read_until(screen, "first token after")
    _read_until(screen, "> ")
    os.write(screen, b"Again\n")
    _read_until(screen, "Again\r\n")
    os.read(screen, 1)
    chat.send_signal(signal.SIGINT)
    _read_until(screen, "[turn cancelled]")
    _read_until(screen, "> ")
    os.write(screen, b"\x04")

    assert chat.wait(COMMAND_S_MAX) == 0
    os.close(screen)
    turns = isthmus("sessions", "show", "terminal", "--json").json["turns"]
    assert [each["state"] for each in turns] == ["done", "cancelled"]


def _read_until(screen: int, words: str) -> None:
    seen = b""
    while words.encode() not in seen:
        seen += os.read(screen, 1)
