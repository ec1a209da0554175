"""`pools`: which pools are behind a gateway, how they do, and draining them by hand."""

from __future__ import annotations

from typing import Final

from isthmus.gateway.v1 import pool_service_pb2

from services.cli.commands import calling
from services.cli.output import console, print_json, table_of
from services.cli.plain import enum_name, plain
from services.cli.target import Target

_PREFIX: Final = "pools/"


def list_pools(target: Target, *, as_json: bool) -> None:
    """Prints all pools."""
    with calling(target) as client:
        found = client.pools()
    if as_json:
        print_json(plain(found))
        return
    table = table_of("pool", "state", "tier", "region", ">replicas", ">calls", ">of", ">p50 ms", ">p95 ms", ">errors")
    for pool in found.pools:
        table.add_row(
            pool.name.removeprefix(_PREFIX),
            _state(pool),
            pool.tier,
            pool.region,
            str(_ready(pool)),
            f"{pool.calls_in_flight:,}",
            f"{pool.calls_max:,}",
            f"{pool.ttft_p50_ms:,.0f}",
            f"{pool.ttft_p95_ms:,.0f}",
            f"{pool.error_share:.0%}",
        )
    console().print(table)
    console().print(f"as {found.gateway} sees them", style="dim", markup=False)


def show_pool(name: str, target: Target, *, as_json: bool) -> None:
    """Prints one pool and its replicas."""
    with calling(target) as client:
        pool = client.pool(name)
    if as_json:
        print_json({"pool": plain(pool)})
        return
    out = console()
    for line in _lines(pool):
        out.print(line, markup=False)
    table = table_of("replica", "state", "breaker", "model", "endpoint")
    for each in pool.replicas:
        table.add_row(each.member, each.state, _breaker(each.breaker), each.model, each.endpoint)
    out.print(table if pool.replicas else "no replica of it lives")


def drain_pool(name: str, target: Target, *, as_json: bool) -> None:
    """Drains a pool; returns when that is noted for all gateways."""
    with calling(target) as client:
        pool = client.drain_pool(name)
    _changed(pool, "is drained; what is under way there goes on to its end", as_json=as_json)


def resume_pool(name: str, target: Target, *, as_json: bool) -> None:
    """Takes a pool back into service."""
    with calling(target) as client:
        pool = client.resume_pool(name)
    _changed(pool, "takes turns again", as_json=as_json)


def _changed(pool: pool_service_pb2.Pool, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"pool": plain(pool)})
    else:
        console().print(f"{pool.name.removeprefix(_PREFIX)} {what}", markup=False)


def _lines(pool: pool_service_pb2.Pool) -> list[str]:
    waits = f", waits {pool.wait_ms:,} ms" if pool.wait_ms else ""
    return [
        f"pool     {pool.name.removeprefix(_PREFIX)}, {_state(pool)}{waits}",
        f"is       tier {pool.tier or '-'}, region {pool.region or '-'}",
        f"calls    {pool.calls_in_flight:,} of {pool.calls_max:,} now; {pool.calls:,} in all, "
        f"{pool.calls_failed:,} failed, {pool.calls_refused:,} refused, {pool.error_share:.0%} errors lately",
        f"ttft     p50 {pool.ttft_p50_ms:,.0f} ms, p95 {pool.ttft_p95_ms:,.0f} ms",
        f"cost     {pool.cost:,.6f}",
    ]


def _state(pool: pool_service_pb2.Pool) -> str:
    if pool.HasField("drain_time"):
        return "drained"
    closed = pool.breaker == pool_service_pb2.BREAKER_STATE_CLOSED
    return f"breaker {_breaker(pool.breaker)}" if not closed else "ready" if _ready(pool) else "no replica"


def _ready(pool: pool_service_pb2.Pool) -> int:
    return sum(each.state == "ready" for each in pool.replicas)


def _breaker(state: int) -> str:
    return enum_name(pool_service_pb2.BreakerState.DESCRIPTOR, state).replace("_", " ")
