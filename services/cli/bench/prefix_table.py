"""The figures of `isthmus bench prefix` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of

_CONVERSATIONS = {
    "through the mesh": None,
    "round robin over the replicas": "round_robin",
    "a plain sliding window": "sliding_window",
}


def print_prefix(console: Console, figures: Mapping[str, Any]) -> None:
    """What was found in the cache, by conversation and epoch, and when the first token came."""
    print_machine(console, figures["machine"])
    console.print(
        f"{figures['turns']} turns of {figures['model']} on {figures['engine']}, a window of at most "
        f"{figures['window_tokens_max']:,} tokens"
    )
    console.print(_conversations(figures))
    console.print(_epochs(figures))
    console.print(_first_tokens(figures))
    for name in ("cold_to_warm", "random_to_affinity"):
        console.print(f"{name}: {figures[name]}")
    for problem in figures["problems"]:
        console.print(problem, style="red")
    console.print(f"met: {str(figures['met']).lower()}")


def share(value: float | None) -> str:
    """A share of the prompt's tokens; engines that do not count are said to."""
    return "not said" if value is None else f"{value:.1%}"


def _conversations(figures: Mapping[str, Any]) -> Any:
    table = table_of("conversation", ">found in the cache", ">first token, ms p50")
    for what, name in _CONVERSATIONS.items():
        row = figures if name is None else figures[name]
        table.add_row(what, share(row["cached_share"]), f"{row['ttft_ms_p50']:,.1f}")
    return table


def _epochs(figures: Mapping[str, Any]) -> Any:
    table = table_of(">epoch", ">turns", ">tokens, first to last", ">found in the cache")
    for epoch in figures["epochs"]:
        first, last = epoch["window_tokens"]
        table.add_row(str(epoch["epoch"]), str(epoch["turns"]), f"{first:,} to {last:,}", share(epoch["cached_share"]))
    return table


def _first_tokens(figures: Mapping[str, Any]) -> Any:
    table = table_of(f"a window of {figures['ttft_window_tokens']:,} tokens", ">first token, ms", ">found in the cache")
    rows = {
        "cold": "cold, through the mesh (median)",
        "warm": "warm, through the mesh (median)",
        "affinity": "warm, always at one replica (mean)",
        "random": "warm, at any replica (mean)",
    }
    for name, what in rows.items():
        table.add_row(what, f"{figures[f'ttft_{name}_ms']:,.1f}", share(figures[f"{name}_cached_share"]))
    return table
