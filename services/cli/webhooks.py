"""`webhooks`: endpoints, added, listed, tested and removed in the Valkey of a mesh."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from services import jobs
from services.cli.audit import Audit
from services.cli.errors import CliError
from services.cli.keys import home_of
from services.cli.mesh_valkey import opened
from services.cli.output import console, print_json, table_of
from services.cli.tenants import mesh_settings, ran
from services.config import Settings
from services.errors import NotFound
from services.valkey import Client
from services.webhooks import keeper, trial
from services.webhooks.dead import buried
from services.webhooks.endpoint import Endpoint
from services.webhooks.keeper import Keeper

T = TypeVar("T")
_DEAD_SHOWN_MAX: Final = 100
# Beside the delivery itself: the queue, and a gateway that is busy.
_TEST_WAIT_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Work:
    """What the commands work with."""

    valkey: Client
    keeper: Keeper
    audit: Audit
    settings: Settings
    tenant: str


def add(url: str, tenant: str, events: Sequence[str], home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Adds an endpoint and prints its secret, which is the only time."""

    async def work(on: _Work) -> Endpoint:
        with on.audit.noting("webhook_added", tenant=on.tenant, url=url) as found:
            endpoint = await on.keeper.add(on.tenant, url, events)
            found["endpoint"] = endpoint.id
        return endpoint

    endpoint = _run(work, tenant, home, config)
    if as_json:
        print_json({"secret": endpoint.secret, "endpoint": _row(endpoint)})
        return
    console().print(endpoint.secret, markup=False)
    note = f"{endpoint.id}: the events of {endpoint.tenant} go to {endpoint.url}; the secret is not shown again"
    console(stderr=True).print(note, style="dim", markup=False)


def list_endpoints(tenant: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Prints a tenant's endpoints."""
    found = _run(lambda on: keeper.listed(on.valkey, on.tenant), tenant, home, config)
    if as_json:
        print_json({"endpoints": [_row(each) for each in found]})
        return
    table = table_of("endpoint", "url", "events", "created")
    for each in found:
        table.add_row(each.id, each.url, " ".join(each.events) or "all", _time(each.create_ms))
    console().print(table if found else "no endpoints; `isthmus webhooks add URL` makes one")


def remove(endpoint: str, tenant: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Removes an endpoint."""

    async def work(on: _Work) -> None:
        with on.audit.noting("webhook_removed", tenant=on.tenant, endpoint=endpoint):
            await on.keeper.remove(on.tenant, endpoint)

    _run(work, tenant, home, config)
    if as_json:
        print_json({"removed": endpoint})
    else:
        console().print(f"{endpoint} is removed", markup=False)


def test(endpoint: str, tenant: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Has a gateway send a test event. CliError NOT_TAKEN where the endpoint did not take it."""

    async def work(on: _Work) -> trial.Answer | None:
        if await keeper.find(on.valkey, on.tenant, endpoint) is None:
            raise NotFound(f"endpoint {endpoint[:64]} of tenant {on.tenant}")
        seconds_max = (on.settings.gateway.webhooks.delivery_ms_max + _TEST_WAIT_MS) / 1000
        async with jobs.docket(on.settings, "-webhooks") as queue:
            return await trial.ask(queue, on.valkey, on.tenant, endpoint, seconds_max)

    answer = _run(work, tenant, home, config)
    if answer is None:
        raise CliError("NOT_TAKEN", f"no gateway has sent the event to {endpoint}; is one running?")
    if answer.problem:
        raise CliError("NOT_TAKEN", f"{endpoint} did not take the event: {answer.problem}")
    if as_json:
        print_json({"endpoint": endpoint, "status": answer.status})
    else:
        console().print(f"{endpoint} took the event: {answer.status}", markup=False)


def dead(tenant: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Prints the latest events that nobody took."""
    found = _run(lambda on: buried(on.valkey, on.tenant, _DEAD_SHOWN_MAX), tenant, home, config)
    if as_json:
        rows = [
            {
                "event": each.event,
                "endpoint": each.endpoint,
                "url": each.url,
                "attempts": each.attempts,
                "end_time": _time(each.end_ms),
                "problem": each.problem,
                "body": each.body,
            }
            for each in found
        ]
        print_json({"events": rows})
        return
    table = table_of("event", "endpoint", ">attempts", "given up", "problem")
    for each in found:
        table.add_row(each.event, each.endpoint, str(each.attempts), _time(each.end_ms), each.problem)
    console().print(table if found else "no dead events")


def _run(work: Callable[[_Work], Coroutine[Any, Any, T]], tenant: str, home: Path | None, config: Path | None) -> T:
    settings = mesh_settings(home, config)

    async def run() -> T:
        async with _opened(settings, tenant or settings.mesh.tenant_default) as on:
            return await work(on)

    return ran(run())


@contextlib.asynccontextmanager
async def _opened(settings: Settings, tenant: str) -> AsyncIterator[_Work]:
    async with opened(settings) as (valkey, acknowledger):
        audit = Audit(home_of(settings), settings.supervisor)
        yield _Work(valkey, Keeper(acknowledger, settings.gateway.webhooks), audit, settings, tenant)


def _row(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "tenant": endpoint.tenant,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "create_time": _time(endpoint.create_ms),
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
