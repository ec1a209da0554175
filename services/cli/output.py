"""How the commands print: JSON on demand, else rich tables; progress and notes go to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from isthmus.session.v1 import turn_pb2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.plain import plain
from services.errors import reason_name
from services.limits.money import money

_LEFT_OUT = {
    turn_pb2.LeftOut.REASON_NOT_SUMMARISED: "no summary was ready",
    turn_pb2.LeftOut.REASON_NO_ROOM: "its summary did not fit",
}
_NOT_OWNER = {
    turn_pb2.Placement.REASON_SPILLED: "which had its share of the load",
    turn_pb2.Placement.REASON_AWAY: "which was away",
}


def console(*, stderr: bool = False) -> Console:
    """A console; without a terminal it prints plain text of any width."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """The one document of a `--json` command."""
    print(json.dumps(document, ensure_ascii=False, indent=2), flush=True)


def stream(text: str) -> None:
    """A piece of a reply, at once and as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def turn_document(session: str, turn: turn_pb2.Turn) -> dict[str, Any]:
    """A turn for `--json`."""
    return {"session": session, "text": turn.output_text, "turn": plain(turn)}


def receipt_table(receipt: turn_pb2.Receipt) -> Table:
    """A turn's hops with their times and bytes."""
    table = table_of("hop", "operation", ">ms", ">bytes out", ">bytes in")
    for hop in receipt.hops:
        table.add_row(
            hop.name, hop.operation, f"{hop.duration_ms:,.1f}", f"{hop.bytes_sent:,}", f"{hop.bytes_received:,}"
        )
    return table


def receipt_lines(receipt: turn_pb2.Receipt) -> list[str]:
    """Tokens, times, window and replicas of a turn, in words."""
    tokens, window = receipt.tokens, receipt.window
    cached = f", {tokens.cached_tokens:,} in the KV cache" if tokens.HasField("cached_tokens") else ""
    return [
        f"tokens   {tokens.new_tokens:,} new, {tokens.window_tokens:,} in the window "
        f"({tokens.reused_tokens:,} held by the replica{cached}), {tokens.output_tokens:,} out",
        f"time     first token after {receipt.ttft_ms:,.0f} ms, {receipt.tokens_per_second:,.1f} tokens/s, "
        f"{receipt.total_ms:,.0f} ms in all",
        *window_lines(window),
        f"served   by {receipt.shard} and {receipt.replica} ({receipt.model}), trace {receipt.trace_id}",
        *([f"cost     {money(receipt.cost.micros)} {receipt.cost.currency}"] if receipt.HasField("cost") else []),
        *placement_lines(receipt),
        *cache_lines(receipt),
    ]


def cache_lines(receipt: turn_pb2.Receipt) -> list[str]:
    """Where a reply comes from that nobody generated, and what checks have found in it."""
    use = receipt.cache
    kind = turn_pb2.CacheUse.Kind.Name(use.kind).removeprefix("KIND_").lower()
    cached = [f"cached   {kind} answer of {use.source_turn}, sure by {use.score:.2f}"]
    refused = [
        f"refused  a reply of {each.tokens.output_tokens:,} tokens by {each.check}: {each.kind}, "
        f"after {each.duration_ms:,.0f} ms"
        for each in receipt.refused_tries
    ]
    return (
        cached * receipt.HasField("cache")
        + refused
        + [
            f"checked  {each.check}: {each.count:,} of {each.kind} "
            f"{turn_pb2.Finding.Action.Name(each.action).removeprefix('ACTION_').lower()}"
            for each in receipt.findings
        ]
    )


def placement_lines(receipt: turn_pb2.Receipt) -> list[str]:
    """Why another replica than the session's own served a turn, and which ones went on with its reply."""
    placement = receipt.placement
    why = _NOT_OWNER.get(placement.reason)
    placed = (
        f"placed   in place of {placement.owner}, {why}: {placement.missed_tokens:,} tokens missed, "
        f"window ready after {placement.missed_ms:,.0f} ms"
    )
    return [placed] * (why is not None) + [
        f"went on  at {each.replica} after {each.emitted_tokens:,} tokens and a pause of {each.pause_ms:,.0f} ms: "
        f"{reason_name(each.reason)}"
        for each in receipt.continuations
    ]


def window_lines(window: turn_pb2.WindowReport) -> list[str]:
    """What a window holds and what it leaves out."""
    lines = [
        f"window   epoch {window.epoch}: {window.item_count:,} items, {window.verbatim_count:,} verbatim and "
        f"{window.summary_count:,} summaries"
    ]
    for span in window.left_out:
        why = _LEFT_OUT.get(span.reason, "for an unknown reason")
        lines.append(
            f"left out fragments {span.first_sequence:,} to {span.last_sequence:,}, {span.tokens:,} tokens: {why}"
        )
    if window.left_out_more:
        lines.append(f"left out {window.left_out_more:,} more spans")
    return lines


def table_of(*headings: str) -> Table:
    """A plain table; a heading that begins with `>` has its column aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(Text(heading.removeprefix(">")), justify="right" if right else "left", no_wrap=True)
    return table
