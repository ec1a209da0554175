"""`cache`: the report on cached answers, and telling one wrong."""

from __future__ import annotations

from isthmus.gateway.v1 import cache_service_pb2

from services.cli.commands import calling
from services.cli.output import console, print_json, table_of
from services.cli.plain import plain
from services.cli.target import Target


def report(target: Target, *, as_json: bool) -> None:
    """What the tenant's caches were good for."""
    with calling(target) as client:
        found = client.cache_report()
    if as_json:
        print_json(plain(found))
        return
    hits = found.hits_exact + found.hits_semantic + found.hits_stale
    share = f", {hits / found.lookups:.1%} of lookups" if found.lookups else ""
    out = console()
    out.print(f"kept     {found.entries:,} answers in {found.scopes:,} scopes, {found.kept:,} in all so far")
    out.print(f"lookups  {found.lookups:,}, of which {found.failed:,} were given up")
    out.print(
        f"hits     {hits:,}{share}: {found.hits_exact:,} exact, {found.hits_semantic:,} semantic, "
        f"{found.hits_stale:,} stale; {found.wrong:,} told wrong"
    )
    if found.refused:
        table = table_of("refused for", ">count")
        for why, count in sorted(found.refused.items(), key=lambda each: (-each[1], each[0])):
            table.add_row(why, f"{count:,}")
        out.print(table)


def wrong(turn: str, target: Target, *, as_json: bool) -> None:
    """Drops the cached answer that a turn was given."""
    with calling(target) as client:
        answer: cache_service_pb2.MarkWrongResponse = client.mark_wrong(_name(turn))
    if as_json:
        print_json(plain(answer))
    else:
        console().print(f"gone: the answer of {answer.source_turn}", markup=False)


def _name(turn: str) -> str:
    """`sessions/{session}/turns/{number}`, also for `{session}/{number}`."""
    session, slash, number = turn.rpartition("/")
    return f"sessions/{session}/turns/{number}" if slash and "/" not in session else turn
