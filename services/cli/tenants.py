"""`tenants`: API keys, made, listed, revoked and rotated in the Valkey of a mesh; limits are in `limits.py`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from services.access import Made, MalformedKey, Record, Scope, parse
from services.access.key import PREFIX, is_id
from services.access.scopes import DEFAULT
from services.cli.duration import parse_ms
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.key_file import read_key, write_key
from services.cli.keys import Keys, home_of, keys_of
from services.cli.output import console, print_json, table_of
from services.cli.settings import load, of_mesh
from services.cli.target import home_path, running_mesh
from services.config import ENV_CONFIG, ConfigError, Settings
from services.errors import InvalidField, IsthmusError, reason_name
from services.supervisor.home import Home
from services.supervisor.plan import ValkeyMode
from services.supervisor.valkey import mode_of

T = TypeVar("T")
_ENV_VALKEY: Final = "ISTHMUS_VALKEY__URL"


def create_key(
    tenant: str,
    scopes: Sequence[str],
    name: str,
    expires_in: str,
    home: Path | None,
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Makes a key and prints it, which is the only time."""
    asked = [_scope(each) for each in scopes] or list(DEFAULT)
    lifetime_ms = _span_ms("--expires-in", expires_in) if expires_in else 0

    async def create(keys: Keys) -> Made:
        return await keys.create(tenant, asked, display_name=name, lifetime_ms=lifetime_ms)

    _tell_made(_run(create, mesh_settings(home, config)), as_json)


def list_keys(tenant: str | None, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Prints keys without their secrets."""
    records = _run(lambda keys: keys.listed(tenant), mesh_settings(home, config))
    rows = [_row(each) for each in records]
    if as_json:
        print_json({"keys": rows})
        return
    if not rows:
        console().print("no keys; `isthmus tenants create-key TENANT` makes one")
        return
    table = table_of("key", "tenant", "state", "created", "ends", "scopes", "name")
    for row, record in zip(rows, records, strict=True):
        ends = _day(record.revoke_ms or record.expire_ms) or "never"
        scopes = " ".join(row["scopes"])
        table.add_row(row["id"], row["tenant"], row["state"], _day(record.create_ms), ends, scopes, row["name"])
    # On a narrow terminal the last two give way: an id that is cut short is of no use.
    for column in table.columns[:5]:
        column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))
    table.columns[5].no_wrap, table.columns[5].min_width = False, max(len(each.value) for each in Scope)
    console().print(table)


def revoke_key(key: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Ends a key."""
    key_id = _key_id(key)
    record = _run(lambda keys: keys.revoke(key_id), mesh_settings(home, config))
    if as_json:
        print_json({"key": _row(record)})
    else:
        console().print(f"{record.id} of {record.tenant} is revoked", markup=False)


def rotate_key(key: str, grace: str, home: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Makes a key in place of another one and prints it; the home's own goes into its file, too."""
    key_id = _key_id(key)
    grace_ms = _span_ms("--grace", grace)
    settings = mesh_settings(home, config)
    made = _run(lambda keys: keys.rotate(key_id, grace_ms), settings)
    # Whatever becomes of the file, the key has been shown.
    _tell_made(made, as_json)
    if read_key(home_of(settings)).startswith(f"{PREFIX}-{key_id}-"):
        write_key(home_of(settings), made.key.text)


def mesh_settings(home: Path | None, config: Path | None) -> Settings:
    """The settings whose Valkey has the keys: of a file, of the mesh that runs on the home, or of the environment.

    Raises CliError MESH_NOT_FOUND where nothing says which Valkey that is.
    """
    if config is not None:
        return _with_home(_own_valkey(load(config)), home)
    try:
        mesh = running_mesh(home)
    except CliError as error:
        if home is None and (ENV_CONFIG in os.environ or _ENV_VALKEY in os.environ):
            return _with_home(_own_valkey(load(None)), None)
        message = f"{error}; or name the settings of its Valkey with --config FILE or {_ENV_VALKEY}"
        raise CliError(error.reason, message, exit_code=error.exit_code) from None
    return of_mesh(Home(Path(mesh.home)))


def _with_home(settings: Settings, home: Path | None) -> Settings:
    mesh = settings.mesh.model_copy(update={"home": home_path(home)})
    return settings.model_copy(update={"mesh": mesh})


def _own_valkey(settings: Settings) -> Settings:
    """Where settings are those of an `isthmus up` on a Valkey of one's own, its URL is `supervisor.valkey`."""
    if mode_of(settings.supervisor.valkey) is not ValkeyMode.OWN:
        return settings
    valkey = settings.valkey.model_copy(update={"url": settings.supervisor.valkey})
    return settings.model_copy(update={"valkey": valkey})


def _run(work: Callable[[Keys], Coroutine[Any, Any, T]], settings: Settings) -> T:
    async def run() -> T:
        async with keys_of(settings) as keys:
            return await work(keys)

    return ran(run())


def ran(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns; what it raises becomes a CliError."""
    try:
        return asyncio.run(work)
    except ConfigError as error:
        raise CliError("CONFIG", str(error), exit_code=EXIT_USAGE) from None
    except InvalidField as error:
        raise CliError("USAGE", error.message, exit_code=EXIT_USAGE) from None
    except IsthmusError as error:
        raise CliError(reason_name(error.reason), error.message) from None


def _tell_made(made: Made, as_json: bool) -> None:
    if as_json:
        print_json({"api_key": made.key.text, "key": _row(made.record)})
        return
    console().print(made.key.text, markup=False)
    end = f" until {_time(made.record.expire_ms)}" if made.record.expire_ms else ""
    scopes = ", ".join(each.value for each in made.record.scopes)
    notes = console(stderr=True)
    notes.print(f"a key of {made.record.tenant}{end}, for {scopes}; it is not shown again", style="dim", markup=False)


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant": record.tenant,
        "name": record.display_name,
        "scopes": [each.value for each in record.scopes],
        "state": record.state(int(time.time() * 1000)).value,
        "create_time": _time(record.create_ms),
        "expire_time": _time(record.expire_ms),
        "revoke_time": _time(record.revoke_ms),
    }


def _time(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ms else None


def _day(ms: int) -> str:
    return (_time(ms) or "")[:10]


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        expected = ", ".join(each.value for each in Scope)
        raise CliError("USAGE", f"--scope {text!r}: expected one of {expected}", exit_code=EXIT_USAGE) from None


def _span_ms(option: str, text: str) -> int:
    try:
        return parse_ms(text)
    except ValueError as error:
        raise CliError("USAGE", f"{option} {error}", exit_code=EXIT_USAGE) from None


def _key_id(text: str) -> str:
    """The id in an id, with or without its prefix, or in a whole key, which is not repeated in any message."""
    key_id = text.removeprefix(f"{PREFIX}-")
    if is_id(key_id):
        return key_id
    try:
        return parse(text).id
    except MalformedKey:
        message = "ID: expected the id of a key, as `isthmus tenants keys` lists it"
        raise CliError("USAGE", message, exit_code=EXIT_USAGE) from None
