"""The command line: every command's flags and help. What a command does is in a module of its own, imported on use."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Protocol, runtime_checkable

import typer

from services.cli.audits_app import audits_app
from services.cli.cache_app import cache_app
from services.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CliError, report
from services.cli.jobs_app import jobs_app
from services.cli.libraries_app import libraries_app
from services.cli.options import ConfigOption, GrpcOption, HomeOption, Json, KeyOption, SessionOption, target_of
from services.cli.pools_app import pools_app
from services.cli.tenants_app import tenants_app
from services.cli.webhooks_app import webhooks_app

ENV_TRACEBACK: Final = "ISTHMUS_TRACEBACK"

app = typer.Typer(
    name="isthmus",
    help="Million-token contexts on the server; only what changed on the wire.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
sessions_app = typer.Typer(
    help="List, show, fork, export, import and delete sessions; alone it lists.", invoke_without_command=True
)
app.add_typer(sessions_app, name="sessions")
shards_app = typer.Typer(
    help="List the shards of a running mesh, add or drain one; alone it lists.", invoke_without_command=True
)
app.add_typer(shards_app, name="shards")
app.add_typer(pools_app, name="pools")
gateways_app = typer.Typer(help="The gateway's processes of a running mesh.", no_args_is_help=True)
app.add_typer(gateways_app, name="gateways")
app.add_typer(tenants_app, name="tenants")
app.add_typer(jobs_app, name="jobs")
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(cache_app, name="cache")
app.add_typer(audits_app, name="audits")
app.add_typer(libraries_app, name="libraries")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"isthmus {installed('isthmus')}")
        raise typer.Exit


@app.command()
def up(
    home: HomeOption = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The OpenAI-shaped HTTP edge [127.0.0.1:8080].")
    ] = None,
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The gRPC edge [127.0.0.1:8081].")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="local, vllm, openai:URL, openai-chat:URL, anthropic:URL or scripted [local]."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH|NAME", help="vllm: the model's folder, or its name on the hub. A URL's: its name."),
    ] = None,
    shards: Annotated[int | None, typer.Option(metavar="N", help="Context store processes [2].")] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Inference processes [1].")] = None,
    gateways: Annotated[int | None, typer.Option(metavar="N", help="Gateway processes [1].")] = None,
    valkey: Annotated[
        str | None,
        typer.Option(metavar="single|cluster|URL", help="One embedded Valkey, a cluster of six, or your own [single]."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show one turn, then stop.")] = False,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Start the whole mesh on this machine and show one real turn."""
    from services.cli.up import Wishes, up

    up(Wishes(home, http, grpc, engine, model, shards, replicas, gateways, valkey, config), once=once, as_json=as_json)


@app.command()
def status(home: HomeOption = None, grpc: GrpcOption = None, as_json: Json = False) -> None:
    """What runs: every process with its state, pid, restarts and address. Exit code 1 if one is not ready."""
    from services.cli.status import status

    status(home, grpc, as_json=as_json)


@app.command()
def ask(
    text: Annotated[list[str], typer.Argument(metavar="TEXT…", help="The message; - reads it from stdin.")],
    session: SessionOption = None,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Run one turn and stream the reply. Without --session it begins a new one."""
    from services.cli.talk import ask

    ask(" ".join(text), session, target_of(grpc, home, api_key), as_json=as_json)


@app.command()
def chat(
    session: SessionOption = None,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Talk on a session. Ctrl-C cancels a turn, Ctrl-D leaves."""
    from services.cli.talk import chat

    chat(session, target_of(grpc, home, api_key), as_json=as_json)


@app.command()
def ingest(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="UTF-8 texts of up to 1 GiB; - is stdin.")],
    session: Annotated[
        str, typer.Option("--session", "-s", metavar="ID", help="The session; made if it does not exist.")
    ],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Stream texts into a session. The same command again goes on where it was cut off."""
    from services.cli.ingest import ingest

    ingest(files, session, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.callback()
def sessions(
    context: typer.Context,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_sessions(home=home, grpc=grpc, api_key=api_key, as_json=as_json)


@sessions_app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most this many.")] = 100,
    after: Annotated[str, typer.Option(metavar="TOKEN", help="Go on from an earlier list's next_page_token.")] = "",
    filter_text: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="""Such as 'labels.team = "red" AND turn_count > 3'.""")
    ] = "",
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """List sessions by id."""
    from services.cli.sessions import list_sessions

    list_sessions(limit, after, filter_text, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.command("show")
def show_session(
    session: Annotated[str, typer.Argument(metavar="ID")],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Show a session, its last turns and the window that its next turn would start from."""
    from services.cli.sessions import show_session

    show_session(session, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.command("delete")
def delete_sessions(
    sessions: Annotated[list[str], typer.Argument(metavar="ID…")],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Erase sessions with all they hold, and say what was erased where. There is no way back."""
    from services.cli.sessions import delete_sessions

    delete_sessions(sessions, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.command("fork")
def fork_session(
    session: Annotated[str, typer.Argument(metavar="ID")],
    turn: Annotated[int, typer.Option(metavar="N", min=0, help="The last turn to share; 0: all there is.")] = 0,
    fork: Annotated[str, typer.Option("--as", metavar="NEW", help="The new session; the server chooses one.")] = "",
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Make a session that begins as another one was after a turn. The past is shared, not copied."""
    from services.cli.transfer import fork_session

    fork_session(session, turn, fork, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.command("export")
def export_session(
    session: Annotated[str, typer.Argument(metavar="ID")],
    form: Annotated[str, typer.Option("--format", metavar="jsonl|protobuf", help="How records are written.")] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout if not given.")
    ] = None,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Write a whole session as records: its log, turns and documents."""
    from services.cli.records import Format
    from services.cli.transfer import export_session

    if form not in {each.value for each in Format}:
        raise typer.BadParameter(f"{form!r}; expected jsonl or protobuf", param_hint="--format")
    export_session(session, Format(form), output, target_of(grpc, home, api_key), as_json=as_json)


@sessions_app.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    session: Annotated[str, typer.Option("--as", metavar="ID", help="The session; the exported one's id.")] = "",
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Make a session of an export's records, in either format."""
    from services.cli.transfer import import_session

    import_session(file, session, target_of(grpc, home, api_key), as_json=as_json)


@shards_app.callback()
def shards(context: typer.Context, home: HomeOption = None, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_shards(home=home, as_json=as_json)


@shards_app.command("list")
def list_shards(home: HomeOption = None, as_json: Json = False) -> None:
    """List the shards with their state, share of the sessions and address."""
    from services.cli.shards import list_shards

    list_shards(home, as_json=as_json)


@shards_app.command("add")
def add_shard(home: HomeOption = None, as_json: Json = False) -> None:
    """Start one more shard and wait until it is ready."""
    from services.cli.shards import add_shard

    add_shard(home, as_json=as_json)


@shards_app.command("drain")
def drain_shard(
    shard: Annotated[str, typer.Argument(metavar="ID")], home: HomeOption = None, as_json: Json = False
) -> None:
    """Have a shard finish its open turns and go; its sessions move to the others."""
    from services.cli.shards import drain_shard

    drain_shard(home, shard, as_json=as_json)


@gateways_app.command("restart")
def restart_gateways(home: HomeOption = None, as_json: Json = False) -> None:
    """Start the gateway's processes anew, one after the other: each drains while the others serve.

    For meshes with `gateway.processes_count` of two or more.
    """
    from services.cli.gateways import restart_gateways

    restart_gateways(home, as_json=as_json)


@app.command("config")
def show_config(config: ConfigOption = None, as_json: Json = False) -> None:
    """Print the effective settings and where each value came from."""
    from services.cli.config import show_config

    show_config(config, as_json=as_json)


@app.command()
def chaos(
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="N", min=1, max=86_400, help="How long faults go on.")
    ] = 60,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of the faults; random if not given.")] = None,
    shards: Annotated[int, typer.Option(metavar="N", min=2, max=16, help="Context store processes.")] = 3,
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Clients, with three sessions each.")] = 4,
    valkey: Annotated[str, typer.Option(metavar="cluster|single", help="Six nodes of Valkey, or one.")] = "cluster",
    together: Annotated[
        bool, typer.Option("--together", help="Also kill several nodes of Valkey at once, until they start again.")
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="Where the mesh lives; a temporary folder if not given."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Kill processes of a mesh of its own under load. Exit code 1 if an acknowledged turn is not in the log once."""
    from services.cli.chaos.commands import Wishes, chaos

    return chaos(Wishes(seconds, seed, shards, clients, valkey, together, home), as_json=as_json)


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def bench(context: typer.Context) -> int:
    """Measure what a turn costs (`isthmus bench --help`)."""
    # The benchmarks' own command line takes over, so that nobody else waits for its imports.
    from services.cli.bench import app as bench_app

    return int(bench_app(args=context.args, prog_name="isthmus bench", standalone_mode=False) or 0)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code. Errors are one line on stderr, never a traceback."""
    as_json = "--json" in arguments
    try:
        return int(app(args=list(arguments), prog_name="isthmus", standalone_mode=False) or 0)
    except CliError as error:
        return report(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as in `isthmus … | head`; the interpreter must not try to flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if ENV_TRACEBACK in os.environ:
            raise
        return report(_explained(error), as_json)


@runtime_checkable
class _UsageError(Protocol):
    """What Typer raises for a wrong command line; its class has no public name."""

    exit_code: int

    def format_message(self) -> str: ...


def _explained(error: Exception) -> CliError:
    if isinstance(error, _UsageError):
        message = error.format_message().replace("\n", " ")
        return CliError("USAGE", message or "see --help for the commands", exit_code=EXIT_USAGE)
    return CliError(
        "INTERNAL", f"a bug: {type(error).__name__}: {error}; {ENV_TRACEBACK}=1 shows where", exit_code=EXIT_FAILED
    )
