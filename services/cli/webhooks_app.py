"""The flags and help of `webhooks`; what it does is in `webhooks.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import ConfigOption, HomeOption, Json

webhooks_app = typer.Typer(
    help="Endpoints that are told of the ends of background responses: add, list, test and remove them.",
    no_args_is_help=True,
)
_Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose events; `mesh.tenant_default`.")]


@webhooks_app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…, or http://…")],
    tenant: _Tenant = "",
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="TYPE",
            help="response.completed, .incomplete, .failed or .cancelled; once for each; all of them if not given.",
        ),
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Add an endpoint and print its secret, this once."""
    from services.cli.webhooks import add

    add(url, tenant, event or [], home, config, as_json=as_json)


@webhooks_app.command("list")
def list_endpoints(
    tenant: _Tenant = "", home: HomeOption = None, config: ConfigOption = None, as_json: Json = False
) -> None:
    """List a tenant's endpoints, without their secrets."""
    from services.cli.webhooks import list_endpoints

    list_endpoints(tenant, home, config, as_json=as_json)


@webhooks_app.command("remove")
def remove(
    endpoint: Annotated[str, typer.Argument(metavar="ID")],
    tenant: _Tenant = "",
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Remove an endpoint: nothing goes there any more, what waits for another attempt neither."""
    from services.cli.webhooks import remove

    remove(endpoint, tenant, home, config, as_json=as_json)


@webhooks_app.command("test")
def send_test(
    endpoint: Annotated[str, typer.Argument(metavar="ID")],
    tenant: _Tenant = "",
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Have a gateway send one signed event of type webhook.test, and say what came of it."""
    from services.cli.webhooks import test

    test(endpoint, tenant, home, config, as_json=as_json)


@webhooks_app.command("dead")
def dead(tenant: _Tenant = "", home: HomeOption = None, config: ConfigOption = None, as_json: Json = False) -> None:
    """List events that no attempt could deliver, newest first, with the reason."""
    from services.cli.webhooks import dead

    dead(tenant, home, config, as_json=as_json)
