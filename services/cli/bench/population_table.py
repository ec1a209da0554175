"""The figures of `isthmus bench sessions` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of

_MB = 1_000_000


def print_sessions(console: Console, figures: Mapping[str, Any]) -> None:
    """Memory beside its budgets, rates, and what callers wait."""
    print_machine(console, figures["machine"])
    console.print(
        f"{figures['sessions']:,} sessions, {figures['live']:,} of them live, on Valkey: {figures['valkey']}; "
        f"{figures['objects_count']:,} objects of {figures['objects_bytes'] / _MB:,.1f} MB"
    )
    console.print(_memory(figures))
    console.print(
        f"{figures['valkey_bytes_per_cold_session']:,} bytes of Valkey a cold session, "
        f"{figures['valkey_bytes_per_live_session']:,} a live one"
    )
    for name in ("created_per_s", "frozen_per_s", "frozen_alone_per_s"):
        console.print(f"{name}: {figures[name]:,.1f}")
    console.print()
    console.print(_waits(figures))
    console.print(f"answers: {figures['answers_checked']} checked, {figures['answers_wrong']} wrong")
    for reason, count in figures["refusals"].items():
        console.print(f"refused and tried again: {count:,} times {reason}")
    for problem in figures["problems"]:
        console.print(problem, style="red")
    console.print(f"within_budget: {str(figures['within_budget']).lower()}")


def _memory(figures: Mapping[str, Any]) -> Any:
    table = table_of("memory", ">MB now", ">MB at most", ">MB budget")
    rows = {"valkey": [figures[f"valkey_{name}"] for name in ("used_bytes", "used_bytes_peak", "budget_bytes")]}
    for name, shard in figures["shards"].items():
        rows[name] = [shard["rss_bytes"], shard["rss_bytes_peak"], shard["rss_budget_bytes"]]
    for name, sizes in rows.items():
        table.add_row(name, *(f"{size / _MB:,.1f}" for size in sizes))
    return table


def _waits(figures: Mapping[str, Any]) -> Any:
    table = table_of("what is waited for", ">p50 ms", ">p99 ms")
    names = {
        "turn": "a live session's turn meanwhile",
        "answer": "the first answer of a cold session",
        "list_page": "a page of 1,000 sessions",
    }
    for name, what in names.items():
        table.add_row(what, f"{figures[f'{name}_ms_p50']:,.2f}", f"{figures[f'{name}_ms_p99']:,.2f}")
    return table
