"""The flags and help of `tenants`; what it does is in `tenants.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import ConfigOption, HomeOption, Json

tenants_app = typer.Typer(
    help="API keys: create, list, revoke and rotate them. Limits: set and look at them.", no_args_is_help=True
)


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


@tenants_app.command("set-limits")
def set_limits(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="1 to 63 of a-z, 0-9 and -.")],
    kind: Annotated[
        str,
        typer.Option("--for", metavar="WHOM", help="tenant, or each user or address of it: tenant, user or address."),
    ] = "tenant",
    requests_per_minute: Annotated[
        str | None, typer.Option(metavar="COUNT", help="A number, none, or default: what is configured.")
    ] = None,
    tokens_per_minute: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Of those that have to be computed; or none, or default.")
    ] = None,
    turns_concurrent: Annotated[
        str | None, typer.Option(metavar="COUNT", help="In line or under way; or none, or default.")
    ] = None,
    budget_monthly: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Such as 25 or 0.50 in a calendar month; or none, or default.")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Set what a tenant may use up: at every gateway after `gateway.limits.overrides_interval_ms`."""
    from services.cli.limits import set_limits

    asked = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "turns_concurrent": turns_concurrent,
        "budget_monthly_micros": budget_monthly,
    }
    set_limits(tenant, kind, asked, home, config, as_json=as_json)


@tenants_app.command("limits")
def show_limits(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]")] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="What this user of the tenant has used.")] = "",
    address: Annotated[str, typer.Option(metavar="IP", help="What this address has used for the tenant.")] = "",
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Show limits and what is used of them: of one tenant, or of all that have keys or limits of their own."""
    from services.cli.limits import show_limits

    show_limits(tenant, user, address, home, config, as_json=as_json)
