"""`ask` and `chat`: turns on a session, streamed."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator

from isthmus.session.v1 import turn_pb2

from services.cli.client import Client, Reply, session_id
from services.cli.commands import calling
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.output import console, print_json, receipt_lines, stream, turn_document
from services.cli.target import Target

_PROMPT = "> "
# The stored receipt ends where the commit begins; the commit's hops come as events.
COMMIT = "commit"


def ask(text: str, session: str | None, target: Target, *, as_json: bool) -> None:
    """One turn; the text `-` is read from stdin."""
    message = sys.stdin.read() if text == "-" else text
    if not message.strip():
        raise CliError("USAGE", "TEXT is empty; expected a message", exit_code=EXIT_USAGE)
    with calling(target) as client:
        name = session_id(client.ensure_session(session))
        turn = run(client, name, message, show=_silent if as_json else stream)
        if as_json:
            print_json(turn_document(name, turn))
        else:
            _epilogue(name, turn, told=session is None)


def chat(session: str | None, target: Target, *, as_json: bool) -> None:
    """Turns until the end of stdin."""
    interactive = sys.stdin.isatty()
    with calling(target) as client:
        name = session_id(client.ensure_session(session))
        if interactive and not as_json:
            console(stderr=True).print(f"session {name} · Ctrl-C cancels a turn, Ctrl-D leaves", style="dim")
        turns = [turn for line in _lines(interactive) if (turn := _chat_turn(client, name, line, as_json))]
        if as_json:
            print_json({"session": name, "turns": [turn_document(name, turn) for turn in turns]})
        elif interactive:
            console(stderr=True).print(f"\ngo on with: isthmus chat --session {name}", style="dim")


def run(
    client: Client, session: str, text: str, show: Callable[[str], None], max_output_tokens: int | None = None
) -> turn_pb2.Turn:
    """Runs a turn to its end, showing its text as it comes. Raises IsthmusError, CliError if the stream just ends."""
    reply = Reply()
    commit: list[turn_pb2.Hop] = []
    with contextlib.closing(client.run_turn(session, text, max_output_tokens=max_output_tokens)) as events:
        for event in events:
            match event.WhichOneof("event"):
                case "accepted":
                    reply.begin()
                case "hop" if event.hop.operation == COMMIT:
                    commit.append(event.hop)
                case "delta":
                    show(reply.feed(event.delta.text))
                case "done":
                    event.done.turn.receipt.hops.extend(commit)
                    return event.done.turn
    raise CliError("UPSTREAM_UNAVAILABLE", f"the gateway ended the turn on session {session} without its reply")


def _chat_turn(client: Client, session: str, line: str, as_json: bool) -> turn_pb2.Turn | None:
    try:
        turn = run(client, session, line, show=_silent if as_json else stream)
    except KeyboardInterrupt:
        console(stderr=True).print("\n[turn cancelled]", style="yellow", markup=False)
        return None
    if not as_json:
        _epilogue(session, turn, told=False)
    return turn


def _lines(interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    # With it, input() has line editing and a history.
    importlib.import_module("readline")
    while True:
        try:
            line = input(_PROMPT).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            continue
        if line:
            yield line


def _epilogue(session: str, turn: turn_pb2.Turn, *, told: bool) -> None:
    stream("\n")
    notes = console(stderr=True)
    for line in receipt_lines(turn.receipt):
        notes.print(line, style="dim", markup=False)
    if told:
        notes.print(f"go on with: isthmus ask --session {session} …", style="dim", markup=False)


def _silent(_: str) -> None:
    """For `--json`, which prints the whole turn at its end."""
