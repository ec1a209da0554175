"""`sessions`: what is there, what a session's next window would hold, and erasing with a receipt."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from isthmus.session.v1 import deletion_pb2, session_pb2, session_service_pb2, turn_pb2

from services.cli.client import Client, session_id
from services.cli.commands import calling
from services.cli.output import console, print_json, table_of, window_lines
from services.cli.plain import plain
from services.cli.target import Target

_PAGE_SIZE_MAX: Final = 1_000
_TURNS_SHOWN_MAX: Final = 10


def list_sessions(limit: int, after: str, filter_text: str, target: Target, *, as_json: bool) -> None:
    """At most `limit` of the sessions that the filter takes, by id, from the page token `after` on."""
    found: list[session_pb2.Session] = []
    with calling(target) as client:
        while len(found) < limit:
            page = client.sessions(min(limit - len(found), _PAGE_SIZE_MAX), after, filter_text)
            found += page.sessions
            after = page.next_page_token
            if not after:
                break
    if as_json:
        print_json({"sessions": [plain(each) for each in found], "next_page_token": after})
        return
    table = table_of("session", ">turns", ">revision", "updated", "name")
    for each in found:
        updated = each.update_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if each.HasField("update_time") else ""
        table.add_row(session_id(each), f"{each.turn_count:,}", f"{each.revision:,}", updated, each.display_name)
    out = console()
    nothing = "no session that the filter takes" if filter_text else "no sessions; `isthmus ask` begins one"
    out.print(table if found else nothing)
    if after:
        out.print(f"there are more: --after {after}", style="dim", markup=False)


def show_session(session: str, target: Target, *, as_json: bool) -> None:
    """One session, its last turns and its window."""
    with calling(target) as client:
        found = client.session(session)
        window = client.preview_window(session)
        turns = _last_turns(client, session)
    if as_json:
        print_json({"session": plain(found), "window": plain(window), "turns": [plain(each) for each in turns]})
        return
    out = console()
    for line in _lines(found, window):
        out.print(line, markup=False)
    if turns:
        out.print(_turn_table(turns))


def delete_sessions(sessions: list[str], target: Target, *, as_json: bool) -> None:
    """Erases the sessions one after the other; the first that is not there ends it."""
    deleted, receipts = [], []
    with calling(target) as client:
        for session in sessions:
            receipt = client.delete_session(session)
            deleted.append(session)
            receipts.append(plain(receipt))
            if not as_json:
                print_receipt(session, receipt)
    if as_json:
        print_json({"deleted": deleted, "receipts": receipts})


def print_receipt(session: str, receipt: deletion_pb2.DeletionReceipt) -> None:
    """What was erased where."""
    out = console()
    out.print(f"deleted {session}", markup=False)
    table = table_of("where", "what", ">count", ">bytes")
    for one in receipt.erasures:
        table.add_row(one.place, one.kind, f"{one.count:,}", f"{one.bytes:,}" if one.bytes else "")
    out.print(table)
    for fork in receipt.forks:
        out.print(f"{fork.removeprefix('sessions/')} has lost the past that it shared with it", markup=False)
    for member in receipt.unreached:
        out.print(f"{member} could not be asked: what it holds in memory goes with its next look", markup=False)


def _last_turns(client: Client, session: str) -> list[turn_pb2.Turn]:
    last: deque[turn_pb2.Turn] = deque(maxlen=_TURNS_SHOWN_MAX)
    token = ""
    while True:
        page = client.turns(session, _PAGE_SIZE_MAX, token)
        last.extend(page.turns)
        token = page.next_page_token
        if not token:
            return list(last)


def _lines(session: session_pb2.Session, preview: session_service_pb2.PreviewWindowResponse) -> list[str]:
    state = f"turn {session.open_turn} is open" if session.open_turn else "no turn is open"
    of = f" of {preview.tokens_max:,}" if preview.tokens_max else ""
    name = f' "{session.display_name}"' if session.display_name else ""
    labels = [f"labels   {', '.join(f'{key}={value}' for key, value in sorted(session.labels.items()))}"]
    return [
        f"session  {session_id(session)}{name}, {session.turn_count:,} turns, {state}",
        *(labels if session.labels else []),
        f"log      {session.revision:,} fragments, {session.text_bytes:,} bytes, {session.tokens:,} tokens, "
        f"{session.summary_count:,} summaries",
        *window_lines(preview.window),
        f"fills    {preview.tokens:,}{of} tokens",
    ]


def _turn_table(turns: list[turn_pb2.Turn]) -> Any:
    table = table_of(">turn", "state", ">new", ">window", ">out", ">TTFT ms", ">total ms")
    for turn in turns:
        tokens = turn.receipt.tokens
        table.add_row(
            str(turn.number),
            plain(turn)["state"],
            f"{tokens.new_tokens:,}",
            f"{tokens.window_tokens:,}",
            f"{tokens.output_tokens:,}",
            f"{turn.receipt.ttft_ms:,.0f}",
            f"{turn.receipt.total_ms:,.0f}",
        )
    return table
