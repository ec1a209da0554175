"""The figures of `isthmus bench jobs` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of


def print_jobs(console: Console, figures: Mapping[str, Any]) -> None:
    """What became of the jobs, and how fast."""
    print_machine(console, figures["machine"])
    console.print(
        f"{figures['jobs']:,} jobs at {figures['gateways']} gateways, {figures['kills']} of which were killed meanwhile"
    )
    table = table_of(">done", ">dead", ">doubled", ">lost", ">submitted a second", ">ended a second")
    counts = [f"{figures[name]:,}" for name in ("done", "dead", "doubled", "lost")]
    table.add_row(*counts, f"{figures['submitted_per_s']:,}", f"{figures['ended_per_s']:,}")
    console.print(table)
    if figures["dead_reasons"]:
        console.print(f"dead letters: {', '.join(figures['dead_reasons'])}")
    for reason, times in figures["refusals"].items():
        console.print(f"refused and tried again: {times:,} times {reason}")
    for problem in figures["problems"]:
        console.print(problem, style="red")
