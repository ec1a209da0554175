"""A load test as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of


def print_load(console: Console, figures: Mapping[str, Any]) -> None:
    """Rate and overhead, the peer's beside them where it was measured; then what each process took."""
    print_machine(console, figures["machine"])
    table = table_of("system", ">turns/s", ">p50 ms", ">p99 ms", ">p99.9 ms", ">errors")
    for name, each in {"isthmus": figures, **figures.get("peers", {})}.items():
        table.add_row(
            name,
            f"{each['turns_per_s']:,.1f}",
            *(_ms(each[f"overhead_ms_{share}"]) for share in ("p50", "p99", "p999")),
            f"{each['errors']:,}",
        )
    console.print(table)
    console.print()
    processes = table_of("process", ">CPU ms a turn", ">MB", ">MB a 1,000 turns")
    for name, cpu_ms in figures["cpu_ms_per_turn"].items():
        size, slope = figures["rss_mb"].get(name), figures["rss_slope_mb_per_1k_turns"].get(name)
        processes.add_row(
            name,
            f"{cpu_ms:,.2f}",
            "" if size is None else f"{size['last']:,.1f}",
            "" if slope is None else f"{slope:+,.4f}",
        )
    console.print(processes)
    for reason, count in figures["errors_by_reason"].items():
        console.print(f"errors, {reason}: {count:,}")


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
