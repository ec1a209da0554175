"""The figures as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from services.cli.output import table_of


def print_turn(console: Console, figures: Mapping[str, Any]) -> None:
    """One more turn: milliseconds and bytes by history, Isthmus first and then its peers."""
    print_machine(console, figures["machine"])
    systems = {"isthmus": figures["points"]}
    systems |= {name: peer["points"] for name, peer in figures.get("peers", {}).items()}
    table = table_of("system", ">history, tokens", ">p50 ms", ">p99 ms", ">bytes from and to the client")
    for name, points in systems.items():
        for point in points:
            table.add_row(
                name,
                f"{point['history_tokens']:,}",
                f"{point['overhead_ms_p50']:,.2f}",
                f"{point['overhead_ms_p99']:,.2f}",
                f"{_client_bytes(point['bytes_by_hop']):,}",
            )
    console.print(table)
    console.print()
    console.print(_hops(figures["points"]))
    for name, value in figures.items():
        if name.startswith("ratio"):
            console.print(f"{name}: {value}")


def print_ingest(console: Console, figures: Mapping[str, Any]) -> None:
    """A file into a session: speed, and memory by process."""
    print_machine(console, figures["machine"])
    size = figures["file_bytes"]
    console.print(f"{size:,} bytes in {figures['seconds']:,.1f} s: {figures['mb_per_s']:,.1f} MB/s")
    table = table_of("process", ">MB before", ">MB after", ">MB at most")
    for name, resident in figures["resident_mb"].items():
        table.add_row(name, *(f"{resident[when]:,.1f}" for when in ("before", "after", "peak")))
    console.print(table)


def _hops(points: Sequence[Mapping[str, Any]]) -> Any:
    """Bytes a turn on each hop, and milliseconds on each leg, by history."""
    table = table_of("hop or leg (medians)", *(f">{point['history_tokens']:,}" for point in points))
    for unit, group, places in (("bytes", "bytes_by_hop", 0), ("ms", "ms_by_leg", 2)):
        for name in sorted({name for point in points for name in point[group]}):
            table.add_row(f"{name}, {unit}", *(f"{point[group].get(name, 0):,.{places}f}" for point in points))
    return table


def _client_bytes(bytes_by_hop: Mapping[str, int]) -> int:
    return next(size for name, size in bytes_by_hop.items() if name.startswith("client."))


def print_machine(console: Console, machine: Mapping[str, Any]) -> None:
    """What the figures were measured on."""
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, load {machine['load_1m']}",
        style="dim",
    )
