"""`audits`: what the critic has found, turn by turn and as a rate."""

from __future__ import annotations

from typing import Final

from isthmus.gateway.v1 import audit_service_pb2

from services.cli.commands import calling
from services.cli.output import console, print_json, table_of
from services.cli.plain import plain
from services.cli.target import Target

_PAGE_SIZE: Final = 1_000
Verdict = audit_service_pb2.Claim.Verdict


def list_audits(limit: int, target: Target, *, as_json: bool) -> None:
    """The newest audits."""
    found: list[audit_service_pb2.Audit] = []
    token = ""
    with calling(target) as client:
        while len(found) < limit:
            page = client.list_audits(min(_PAGE_SIZE, limit - len(found)), token)
            found += page.audits
            token = page.next_page_token
            if not token:
                break
    if as_json:
        print_json({"audits": [plain(each) for each in found]})
        return
    table = table_of("turn", "model", "ended", "by", ">supported", ">contradicted", ">unsupported")
    for each in found:
        verdicts = [claim.verdict for claim in each.claims]
        counts = [
            f"{verdicts.count(verdict):,}"
            for verdict in (Verdict.VERDICT_SUPPORTED, Verdict.VERDICT_CONTRADICTED, Verdict.VERDICT_UNSUPPORTED)
        ]
        by = f"{each.method} ({each.fallback.lower()})" if each.fallback else each.method
        ended = each.end_time.ToDatetime().isoformat(sep=" ", timespec="seconds")
        table.add_row(each.turn, each.model, ended, by, *counts)
    console().print(table)


def rate(since: str, until: str, model: str, target: Target, *, as_json: bool) -> None:
    """The hallucination rate."""
    with calling(target) as client:
        found = client.hallucination_rate(since, until, model)
    if as_json:
        print_json(plain(found))
        return
    table = table_of("day", "model", ">audits", ">claims", ">contradicted", ">unsupported", ">rate")
    for row in found.rows:
        table.add_row(row.day, row.model, *_cells(row.counts))
    table.add_row("all", model, *_cells(found.total))
    console().print(table)


def _cells(counts: audit_service_pb2.ClaimCounts) -> list[str]:
    rate = f"{counts.rate:.1%}" if counts.HasField("rate") else "-"
    numbers = (counts.audits, counts.claims, counts.contradicted, counts.unsupported)
    return [*(f"{number:,}" for number in numbers), rate]
