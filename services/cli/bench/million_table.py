"""The figures of `isthmus bench million` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of

_COLD = {"cold_first": "the session's first turn", "cold_elsewhere": "its fork's, at the other replica"}
_WARM = {
    "opening": "the turn after the first, which opens the session in the engine",
    "resident": "one more turn of a session that is open in the engine",
    "prefix_hit": "one more turn as a request of its own, on a prefix hit",
}


def print_million(console: Console, figures: Mapping[str, Any]) -> None:
    """First tokens, where the time went, and memory by process."""
    print_machine(console, figures["machine"])
    console.print(
        f"{figures['tokens']:,} tokens ({figures['document_bytes']:,} bytes) ingested in {figures['ingest_s']:,.1f} s; "
        f"the window had {figures['window_tokens']:,}"
    )
    console.print(_cold(figures))
    console.print(_warm(figures))
    console.print()
    console.print(_legs(figures))
    console.print(_memory(figures))
    for problem in figures["problems"]:
        console.print(problem, style="red")
    console.print(f"met: {str(figures['met']).lower()}")


def _cold(figures: Mapping[str, Any]) -> Any:
    names = ("ttft_cold_ms", "engine_ms", "pull_ms", "tokenize_ms", "overhead_ms")
    table = table_of("cold", ">first token, ms", ">engine", ">pull", ">tokenise", ">all but the engine")
    for kind, what in _COLD.items():
        table.add_row(what, *(f"{figures[kind][name]:,.0f}" for name in names))
    return table


def _warm(figures: Mapping[str, Any]) -> Any:
    table = table_of("warm", ">turns", ">first token, ms p50", ">at most", ">resident")
    for kind, what in _WARM.items():
        row = figures[kind]
        table.add_row(
            what, str(row["turns"]), f"{row['ttft_ms']:,.1f}", f"{row['ttft_ms_max']:,.1f}", str(row["turns_resident"])
        )
    return table


def _legs(figures: Mapping[str, Any]) -> Any:
    table = table_of("leg, ms (medians)", *(f">{kind}" for kind in _WARM))
    for name in sorted({name for kind in _WARM for name in figures[kind]["ms_by_leg"]}):
        table.add_row(name, *(f"{figures[kind]['ms_by_leg'].get(name, 0):,.2f}" for kind in _WARM))
    return table


def _memory(figures: Mapping[str, Any]) -> Any:
    table = table_of("process", ">MB before", ">MB after", ">MB at most")
    for name, resident in figures["resident_mb"].items():
        table.add_row(name, *(f"{resident[when]:,.1f}" for when in ("before", "after", "peak")))
    return table
