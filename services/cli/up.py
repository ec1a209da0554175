"""`up`: the whole mesh in the foreground, with one real turn to show that it works."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.cli.client import Client, session_id
from services.cli.commands import explain
from services.cli.engines import model_section, require_engine
from services.cli.errors import EXIT_INTERRUPTED, EXIT_USAGE, CliError
from services.cli.greeting import Greeting
from services.cli.key_file import read_key
from services.cli.keys import first_key
from services.cli.settings import load, of_mesh
from services.cli.talk import run as run_turn
from services.cli.target import home_path
from services.config import ConfigError, Settings, SupervisorSettings
from services.errors import IsthmusError, reason_name
from services.supervisor import ports
from services.supervisor.errors import SupervisorError
from services.supervisor.home import Home
from services.supervisor.local import held_home, plan_mesh, run_mesh
from services.supervisor.plan import ValkeyMode
from services.supervisor.ports import Address
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor
from services.supervisor.valkey import mode_of
from services.valkey.address import parse

SESSION: Final = "hello"
QUESTION: Final = "What is the capital of France?"
_ANSWER_TOKENS_MAX: Final = 96
# The first turn meets rooms that have only just found each other.
_TURN_PATIENCE_MS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Wishes:
    """The flags; None is one that was not given."""

    home: Path | None
    http: str | None
    grpc: str | None
    engine: str | None
    model: str | None
    shards: int | None
    replicas: int | None
    gateways: int | None
    valkey: str | None
    config: Path | None


def up(wishes: Wishes, *, once: bool, as_json: bool) -> None:
    """Runs the mesh until a signal, or with `once` until the turn is over. Raises CliError."""
    settings = effective(wishes, once=once)
    greeting = Greeting(once=once, as_json=as_json)
    showing = _Showing(greeting, once, settings)
    try:
        with held_home(settings, greeting.echo) as (home, mux):
            supervisor = Supervisor(plan_mesh(settings, home), home, settings.supervisor, mux)
            asyncio.run(run_mesh(supervisor, showing.serve))
    except SupervisorError as error:
        raise CliError(error.reason, str(error)) from None
    showing.finish()


def effective(wishes: Wishes, *, once: bool) -> Settings:
    """The settings with the flags applied. With `once`, a default address that is taken gives way to a free one."""
    mesh = _given(home=home_path(wishes.home), shards=wishes.shards, replicas=wishes.replicas, gateways=wishes.gateways)
    settings = load(
        wishes.config,
        mesh=mesh,
        inference=_given(engine=wishes.engine),
        supervisor=_given(http=wishes.http, grpc=wishes.grpc, valkey=wishes.valkey),
        **_model(wishes),
    )
    require_engine(settings.inference.engine)
    _check_valkey(settings.supervisor.valkey)
    addresses = {name: _address(name, getattr(settings.supervisor, name)) for name in ("http", "grpc")}
    if not once:
        return settings
    moved = {
        name: str(Address(address.host, 0))
        for name, address in addresses.items()
        if _is_default(name, address) and ports.refusal(address) is not None
    }
    return settings.model_copy(update={"supervisor": settings.supervisor.model_copy(update=moved)})


class _Showing:
    """The turn that `up` shows, and how the command ends."""

    def __init__(self, greeting: Greeting, once: bool, settings: Settings) -> None:
        self._greeting = greeting
        self._once = once
        self._wants_keys = settings.gateway.access.wants_keys
        # Who may come in is the issuer's to say, and this command has no token of it.
        self._may_ask = self._wants_keys or not settings.gateway.access.wants_tokens
        self._begun = time.monotonic()
        self._done = False
        self._error: CliError | None = None

    async def serve(self, mesh: MeshState) -> None:
        """Called when the mesh is ready; its return stops the mesh."""
        self._greeting.ready(mesh, int((time.monotonic() - self._begun) * 1_000))
        client = Client(mesh.grpc, _TURN_PATIENCE_MS, await self._api_key(Home(Path(mesh.home))))
        try:
            if self._may_ask:
                await asyncio.to_thread(self._turn, client)
            else:
                self._greeting.not_asked()
        finally:
            # When a signal cancels this, it ends the call that the thread waits for.
            client.close()
        self._done = True
        if not self._once:
            self._greeting.examples(mesh)
            await asyncio.Event().wait()

    async def _api_key(self, home: Home) -> str:
        """The home's key, made at the first start; empty where the mesh wants none. Raises CliError."""
        if not self._wants_keys:
            return ""
        try:
            made = await first_key(home, of_mesh(home))
        except IsthmusError as error:
            raise CliError(reason_name(error.reason), f"no API key could be made: {error.message}") from None
        self._greeting.key(home.api_key, made)
        return read_key(home)

    def finish(self) -> None:
        """Raises what `--once` has to report by its exit code."""
        if self._once and self._error is not None:
            raise self._error
        if self._once and not self._done:
            raise CliError("INTERRUPTED", "stopped before the turn was over", exit_code=EXIT_INTERRUPTED)

    def _turn(self, client: Client) -> None:
        try:
            name = session_id(client.ensure_session(SESSION))
            self._greeting.asked(QUESTION)
            turn = run_turn(client, name, QUESTION, self._greeting.text, _ANSWER_TOKENS_MAX)
        except IsthmusError as error:
            self._failed(explain(error, client.target))
        except CliError as error:
            self._failed(error)
        else:
            self._greeting.answered(name, turn)

    def _failed(self, error: CliError) -> None:
        self._error = error
        if not self._once:
            self._greeting.failed(error)


def _address(name: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise CliError("USAGE", f"--{name} {error}", exit_code=EXIT_USAGE) from None


def _model(wishes: Wishes) -> dict[str, dict[str, object]]:
    """The settings that `--model` stands for; which they are is the engine's to say, wherever that was chosen."""
    if wishes.model is None:
        return {}
    engine = wishes.engine or load(wishes.config).inference.engine
    require_engine(engine, wishes.model)
    return model_section(engine, wishes.model)


def _check_valkey(choice: str) -> None:
    try:
        if mode_of(choice) is ValkeyMode.OWN:
            parse(choice)
    except ConfigError as error:
        raise CliError("USAGE", f"--valkey: expected single, cluster or a URL; {error}", exit_code=EXIT_USAGE) from None


def _is_default(name: str, address: Address) -> bool:
    return bool(str(address) == SupervisorSettings.model_fields[name].default)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}
