"""The figures of `isthmus bench store` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from services.cli.bench.tables import print_machine
from services.cli.output import table_of


def print_store(console: Console, figures: Mapping[str, Any]) -> None:
    """Appends by level, windows, sessions by length, and the peers."""
    print_machine(console, figures["machine"])
    console.print(_appends(figures))
    console.print(f"append_ratio_to_valkey: {figures['append_ratio_to_valkey']}")
    console.print()
    for name in ("window_read_mb_per_s", "window_read_copied_mb_per_s", "window_read_cold_mb_per_s"):
        console.print(f"{name}: {figures[name]:,.1f}")
    console.print()
    console.print(_sessions(figures))
    for name, value in figures.items():
        if name.startswith("open_to_manifest_ratio"):
            console.print(f"{name}: {value}")
    console.print()
    _print_turns(console, {"isthmus": {"points": figures["turns"]}, **figures.get("peers", {})})


def _appends(figures: Mapping[str, Any]) -> Any:
    table = table_of("appends", ">in flight", ">a second", ">p50 ms", ">p99 ms", ">of Valkey")
    ways = {"valkey": "Valkey alone", "append": "store", "grpc": "store over gRPC"}
    shares = {"valkey": None, "append": "ratio", "grpc": "ratio_grpc"}
    for level in figures["append_levels"]:
        for way, name in ways.items():
            share = shares[way]
            table.add_row(
                name,
                str(level["in_flight"]),
                f"{level[f'{way}_per_s']:,.0f}",
                f"{level[f'{way}_ms_p50']:,.2f}",
                f"{level[f'{way}_ms_p99']:,.2f}",
                f"{level[share]:.2f}" if share else "",
            )
    return table


def _sessions(figures: Mapping[str, Any]) -> Any:
    table = table_of(
        *("tokens", ">open, ms", ">load, ms", ">freeze, ms"), *(">bytes cold", ">bytes warm", ">bytes hot")
    )
    for tokens, sizes in figures["memory_per_session_bytes"].items():
        times = (figures[name][tokens] for name in ("open_to_manifest_ms", "cold_load_ms", "freeze_ms"))
        table.add_row(
            f"{int(tokens):,}",
            *(f"{ms:,.2f}" for ms in times),
            *(f"{sizes[where]:,}" for where in ("cold", "warm", "hot")),
        )
    return table


def _print_turns(console: Console, systems: Mapping[str, Any]) -> None:
    table = table_of("system", ">turns before", ">ms a turn", ">bytes written a turn", ">bytes kept a turn")
    for name, system in systems.items():
        for point in system.get("points", ()):
            table.add_row(
                name,
                f"{point['turns']:,}",
                f"{point['ms_p50']:,.2f}",
                f"{point['written_bytes']:,}",
                f"{point['kept_bytes']:,}",
            )
    console.print(table)
    for name, system in systems.items():
        if "skipped" in system:
            console.print(f"{name}: skipped, {system['skipped']}")
