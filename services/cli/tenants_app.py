"""The flags and help of `tenants`; what it does is in `tenants.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import ConfigOption, HomeOption, Json

tenants_app = typer.Typer(help="API keys: create, list, revoke and rotate them.", no_args_is_help=True)


@tenants_app.command("create-key")
def create_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="1 to 63 of a-z, 0-9 and -.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="turns, sessions.read, sessions.write or admin; once for each; all but admin if not given.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What people call it.")] = "",
    expires_in: Annotated[
        str, typer.Option(metavar="SPAN", help="Such as 12h or 30d; it has no end if not given.")
    ] = "",
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print it, this once."""
    from services.cli.tenants import create_key

    create_key(tenant, scope or [], name, expires_in, home, config, as_json=as_json)


@tenants_app.command("keys")
def list_keys(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """List API keys, those included that have ended lately. Secrets are kept nowhere."""
    from services.cli.tenants import list_keys

    list_keys(tenant, home, config, as_json=as_json)


@tenants_app.command("revoke-key")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID")],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """End an API key: at every gateway after `gateway.access.cache_ms_max` at the latest."""
    from services.cli.tenants import revoke_key

    revoke_key(key, home, config, as_json=as_json)


@tenants_app.command("rotate-key")
def rotate_key(
    key: Annotated[str, typer.Argument(metavar="ID")],
    grace: Annotated[str, typer.Option(metavar="SPAN", help="How long the old one lives on, such as 1h or 7d.")] = "0s",
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Make a key in place of another, with its tenant, scopes and name, and print it, this once."""
    from services.cli.tenants import rotate_key

    rotate_key(key, grace, home, config, as_json=as_json)
