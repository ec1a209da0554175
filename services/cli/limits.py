"""`tenants set-limits` and `tenants limits`: what tenants may use up and what they have used, in the mesh's Valkey."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import UNSET

from services.access.keeper import listed
from services.cli.audit import Audit
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.keys import home_of
from services.cli.mesh_valkey import opened
from services.cli.output import console, print_json, table_of
from services.cli.tenants import mesh_settings, ran
from services.config import Settings
from services.config.limits import PER_MINUTE_MAX, CallerLimits
from services.limits.callers import LIMITS, Caller, Defaults, Kind, Limit, Override
from services.limits.keeper import Meters, Overrides, set_override
from services.limits.meter import MICROS
from services.limits.money import money, parse_money
from services.limits.standing import Reading
from services.valkey import Acknowledger, Client

T = TypeVar("T")
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_COUNT_MAX: Final[Mapping[Limit, int]] = {
    "requests_per_minute": PER_MINUTE_MAX,
    "tokens_per_minute": PER_MINUTE_MAX,
    "turns_concurrent": 100_000,
}


@dataclass(frozen=True, slots=True)
class _Store:
    valkey: Client
    acknowledger: Acknowledger
    settings: Settings

    @property
    def overrides(self) -> Overrides:
        return Overrides(self.valkey)

    @property
    def defaults(self) -> Defaults:
        limits = self.settings.gateway.limits
        return Defaults(limits.tenant, limits.user, limits.address)


def set_limits(
    tenant: str, kind: str, asked: Mapping[str, str | None], home: Path | None, config: Path | None, *, as_json: bool
) -> None:
    """Changes those limits that were asked for, and prints what is in force."""
    of = _kind(kind)
    _check_tenant(tenant)
    changes = {name: _limit(name, text) for name in LIMITS if (text := asked[name]) is not None}
    if not changes:
        options = ", ".join(_option(name) for name in LIMITS)
        raise CliError("USAGE", f"nothing is set; expected some of {options}", exit_code=EXIT_USAGE)

    async def change(store: _Store) -> list[dict[str, Any]]:
        told = {_option(name): asked[name] for name in changes}
        with Audit(home_of(store.settings), store.settings.supervisor).noting(
            "limits_set", tenant=tenant, of=of.value, **told
        ):
            override, stored = await store.overrides.find(tenant)
            after = override.changed(of, changes)
            await set_override(store.acknowledger, store.settings.gateway.limits, tenant, stored, after)
        return await _rows(store, tenant, after)

    _tell(_run(change, mesh_settings(home, config)), as_json)


def show_limits(
    tenant: str | None, user: str, address: str, home: Path | None, config: Path | None, *, as_json: bool
) -> None:
    """Prints limits, and what is used of them."""
    if tenant is None and (user or address):
        raise CliError("USAGE", "--user and --address: of which tenant? expected TENANT with it", exit_code=EXIT_USAGE)
    if tenant is not None:
        _check_tenant(tenant)

    async def show(store: _Store) -> list[dict[str, Any]]:
        own = await store.overrides.all()
        if tenant is not None:
            return await _rows(store, tenant, own.get(tenant), user, address)
        with_keys = {record.tenant for record in await listed(store.valkey)}
        tenants = sorted({store.settings.mesh.tenant_default, *own, *with_keys})
        return [row for each in tenants for row in await _rows(store, each, own.get(each))]

    _tell(_run(show, mesh_settings(home, config)), as_json)


async def _rows(
    store: _Store, tenant: str, override: Override | None, user: str = "", address: str = ""
) -> list[dict[str, Any]]:
    """One for the tenant, and for its users and addresses where these are named or have limits."""
    named = {Kind.TENANT: tenant, Kind.USER: user, Kind.ADDRESS: address}
    callers = [Caller(kind, name, store.defaults.in_force(kind, override)) for kind, name in named.items()]
    meters = Meters(store.acknowledger, store.settings.gateway.limits.lease_ms)
    asked = [caller for caller in callers if caller.name]
    readings = {reading.caller: reading for reading in (await meters.look(asked)).readings}
    shown = [caller for caller in callers if caller.name or caller.limits != CallerLimits()]
    return [_row(store, tenant, caller, readings.get(caller), override) for caller in shown]


def _row(
    store: _Store, tenant: str, caller: Caller, reading: Reading | None, override: Override | None
) -> dict[str, Any]:
    own = (override or Override()).of(caller.kind)
    used = {} if reading is None else _used(reading)
    limits = {
        name: {
            "limit": getattr(caller.limits, name),
            "is_own": getattr(own, name) is not UNSET,
            "used": used.get(name),
        }
        for name in LIMITS
    }
    currency = store.settings.gateway.limits.currency
    return {"tenant": tenant, "of": caller.kind.value, "name": caller.name, "currency": currency, "limits": limits}


def _used(reading: Reading) -> dict[str, int | None]:
    """What is not counted, since there is no limit, is not known."""
    limits = reading.caller.limits
    counts_money = limits.budget_monthly_micros is not None or reading.caller.kind is Kind.TENANT
    return {
        "requests_per_minute": -(-reading.requests_level // MICROS) if reading.requests else None,
        "tokens_per_minute": -(-reading.tokens_level // MICROS) if reading.tokens else None,
        "turns_concurrent": None if limits.turns_concurrent is None else reading.turns,
        "budget_monthly_micros": reading.micros if counts_money else None,
    }


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"limits": rows})
        return
    table = table_of("tenant", "of", ">requests/min", ">tokens/min", ">turns", ">budget/month")
    for row in rows:
        whom = row["of"] if row["of"] == Kind.TENANT.value else f"{row['of']} {row['name'] or '(each)'}"
        table.add_row(row["tenant"], whom, *[_cell(name, row["limits"][name], row["currency"]) for name in LIMITS])
    console().print(table)


def _cell(name: str, limit: Mapping[str, Any], currency: str) -> str:
    """`used of limit`, with a star where the limit is the tenant's own."""
    is_money = name == "budget_monthly_micros"

    def text(amount: int) -> str:
        return money(amount) if is_money else f"{amount:,}"

    bound = "none" if limit["limit"] is None else text(limit["limit"]) + (f" {currency}" if is_money else "")
    told = bound if limit["used"] in (None, 0) and limit["limit"] is None else f"{text(limit['used'] or 0)} of {bound}"
    return told + ("*" if limit["is_own"] else "")


def _run(work: Callable[[_Store], Coroutine[Any, Any, T]], settings: Settings) -> T:
    async def run() -> T:
        async with _store(settings) as store:
            return await work(store)

    return ran(run())


@contextlib.asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[_Store]:
    async with opened(settings) as (valkey, acknowledger):
        yield _Store(valkey, acknowledger, settings)


def _limit(name: Limit, text: str) -> Any:
    """A number, None for no limit, UNSET for what is configured."""
    if text in ("none", "default"):
        return None if text == "none" else UNSET
    try:
        if name == "budget_monthly_micros":
            return parse_money(text)
        count = int(text)
    except ValueError as error:
        told = str(error) if name == "budget_monthly_micros" else f"{text!r}: expected a number, none or default"
        raise CliError("USAGE", f"{_option(name)} {told}", exit_code=EXIT_USAGE) from None
    if not 1 <= count <= _COUNT_MAX[name]:
        message = f"{_option(name)} {count}: expected 1 to {_COUNT_MAX[name]}, none or default"
        raise CliError("USAGE", message, exit_code=EXIT_USAGE)
    return count


def _option(name: str) -> str:
    return "--" + name.removesuffix("_micros").replace("_", "-")


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        expected_ = ", ".join(str(each.value) for each in Kind)
        raise CliError("USAGE", f"--for {text!r}: expected one of {expected_}", exit_code=EXIT_USAGE) from None


def _check_tenant(tenant: str) -> None:
    if not _TENANT.fullmatch(tenant):
        message = f"TENANT: is {tenant[:64]!r}, expected 1 to 63 of a-z, 0-9 and -, no - first"
        raise CliError("USAGE", message, exit_code=EXIT_USAGE)
