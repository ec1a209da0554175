"""`isthmus bench`: the flags; what is measured and how is in the modules beside this one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Json

app = typer.Typer(
    name="bench",
    help="Measure what the mesh costs, with all processes real and the scripted engine for a model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="Where the benchmark's own mesh lives; a temporary folder if not given."
    ),
]


class ValkeyChoice(Enum):
    """The embedded Valkeys."""

    SINGLE = "single"
    CLUSTER = "cluster"


@app.command()
def turn(
    histories: Annotated[
        str, typer.Option(metavar="N,N,…", help="Tokens behind the sessions.")
    ] = "2000,200000,1000000,2000000",
    turns: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Turns measured on each session.")] = 200,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the texts.")] = 1,
    home: HomeOption = None,
    grpc: Annotated[
        str | None, typer.Option("--grpc", metavar="HOST:PORT", help="Measure the mesh that runs there instead.")
    ] = None,
    peers: Annotated[
        bool | None,
        typer.Option(help="Also measure LiteLLM and vllm-router; by default if benchmarks/setup.sh was run."),
    ] = None,
    peer_turns: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Turns measured on each peer.")] = 30,
    as_json: Json = False,
) -> None:
    """What one more turn costs, gateway, store and hand-over together, by the length of the history behind it."""
    from services.cli.bench.commands import Targets, bench_turn
    from services.cli.bench.turns import TurnPlan

    plan = TurnPlan(_numbers(histories, "--histories"), turns, seed)
    bench_turn(plan, Targets(home, grpc, peers, peer_turns), as_json=as_json)


@app.command()
def ingest(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A UTF-8 text of up to 1 GiB.")
    ],
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """How fast a text goes into a session, and what memory each process takes for it."""
    from services.cli.bench.commands import bench_ingest

    bench_ingest(file, home, as_json=as_json)


@app.command()
def store(
    tokens: Annotated[
        int, typer.Option(metavar="N", min=100, max=10_000_000, help="Tokens behind the longest session.")
    ] = 2_000_000,
    valkey: Annotated[
        str, typer.Option(metavar="single|cluster|URL", help="The Valkey of the benchmark's mesh, or your own.")
    ] = "single",
    turn_bytes: Annotated[int, typer.Option(metavar="N", min=1, max=8_192, help="Text of one append.")] = 2_048,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=1_000, help="Rounds at each level of appends.")] = 9,
    appends: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="Appends in one round.")] = 640,
    turns: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Turns opened on each session.")] = 100,
    reads: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Reads of the warm window.")] = 15,
    lengths: Annotated[
        str, typer.Option(metavar="N,N,…", help="Turns of a session that grows, here and at the peers.")
    ] = "10,100,400",
    seed: Annotated[int, typer.Option(metavar="N", help="Of the texts.")] = 1,
    home: HomeOption = None,
    peers: Annotated[
        bool | None,
        typer.Option(
            help="Also measure LangGraph's checkpointer and agent-memory-server; by default if they are there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What the context store costs beside Valkey itself: appends, windows, loads, memory.

    JSON: `append_ratio_to_valkey` is the lowest of the three `append_levels` (1, 16 and 64 in flight), appends a second
    through the store over those of a raw pipeline with the same bytes and the same durability on the same Valkey;
    `append_grpc_per_s` and `append_ratio_to_valkey_grpc` are the same over gRPC. `window_read_mb_per_s` is UTF-8 of
    the longest window over gRPC from a shard that read it before, `window_read_copied_mb_per_s` from one that has the
    session's copy but no texts, `window_read_cold_mb_per_s` from one that has neither. `open_to_manifest_ms` (p50),
    `cold_load_ms`, `freeze_ms` and `memory_per_session_bytes` (`cold` and `warm` in Valkey, `hot` in the shard) are by
    tokens; `open_to_manifest_ratio_2m_to_2k` is the longest over the shortest. `turns` are ms,
    bytes written and bytes kept of a turn as a session grows, and `peers` the same by name, or why one was `skipped`.
    """
    from services.cli.bench.commands import bench_store
    from services.cli.bench.storage import StorePlan

    plan = StorePlan(tokens, turn_bytes, rounds, appends, turns, reads, _numbers(lengths, "--lengths"), seed)
    bench_store(plan, home, valkey, with_peers=peers, as_json=as_json)


@app.command()
def sessions(
    count: Annotated[
        int, typer.Option("--sessions", metavar="N", min=2, max=1_000_000, help="Sessions, the live ones included.")
    ] = 100_000,
    live: Annotated[
        float, typer.Option(metavar="SHARE", min=0.0, max=0.5, help="Share of them that speaks all the time.")
    ] = 0.01,
    text_bytes: Annotated[
        int, typer.Option("--bytes", metavar="N", min=64, max=65_536, help="Text that each begins with.")
    ] = 2_048,
    valkey: Annotated[
        ValkeyChoice, typer.Option(metavar="single|cluster", help="The Valkey of the benchmark's mesh.")
    ] = ValkeyChoice.SINGLE,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the texts and of who is asked.")] = 1,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Very many sessions of which a few are live: memory beside its budgets, and whether any one answers.

    All come in over gRPC by the gateway. The janitor makes objects of those that are idle while others are still made
    and the live ones speak. JSON: `created_per_s`; `frozen_per_s` from the first object to the last and
    `frozen_alone_per_s` from when nothing was made any more; what Valkey uses and used at most beside its `maxmemory`;
    each shard's memory beside its budget, which is what it took empty, `hot_sessions_bytes_max`, `bodies_bytes_max` and
    48 MiB; `valkey_bytes_per_cold_session` with its entries in lists and indexes. `turn_ms` are live turns until all
    was frozen, without the engine's time; `answer_ms` are first touches of cold sessions, half reads and half turns,
    whose texts are compared; `list_page_ms` are pages of 1,000; `refusals` were tried again when their RetryInfo said.
    The exit code is 1 if a budget was passed or an answer is wrong.
    """
    from services.cli.bench.commands import bench_sessions
    from services.cli.bench.population_plan import SessionsPlan

    bench_sessions(SessionsPlan(count, live, text_bytes, valkey.value, seed), home, as_json=as_json)


@app.command()
def jobs(
    count: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="Turns, each of its session.")] = 10_000,
    gateways: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Gateways, which run them.")] = 3,
    kill_every_s: Annotated[
        float, typer.Option(metavar="S", min=0, max=3_600, help="How often one of them is killed; 0: never.")
    ] = 2.0,
    output_tokens: Annotated[int, typer.Option(metavar="N", min=1, max=4_096, help="Of each reply.")] = 16,
    tokens_per_s: Annotated[
        float, typer.Option(metavar="N", min=0, help="The engine's pace for one reply; 0: all at once.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of who is killed.")] = 1,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Turns in the background while gateways are killed at random: each done once, or a dead letter with its reason.

    All are submitted through all gateways, again where one is lost with the call; what each came to is read from its
    session's log. JSON: `done` have one turn that is done, one message and its reply, numbered without a gap; `dead`
    have one failed turn and a reason among the dead letters; `doubled` have more than one; `lost` is all else.
    The exit code is 1 where any is doubled or lost.
    """
    from services.cli.bench.commands import bench_jobs
    from services.cli.bench.jobs_plan import JobsPlan

    bench_jobs(JobsPlan(count, gateways, kill_every_s, output_tokens, tokens_per_s, seed), home, as_json=as_json)


@app.command()
def prefix(
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="The model engine: vllm, local, openai:URL or scripted.")
    ] = "vllm",
    model: Annotated[
        str | None, typer.Option(metavar="PATH|NAME", help="As for `isthmus up`; the model that comes along.")
    ] = None,
    turns: Annotated[int, typer.Option(metavar="N", min=2, max=10_000, help="Turns of the conversation.")] = 60,
    window_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=512, max=1_000_000, help="Tokens of its window, and of those that are timed."),
    ] = 6_000,
    samples: Annotated[int, typer.Option(metavar="N", min=1, max=1_000, help="Windows that are timed cold.")] = 3,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=1_000, help="Turns that follow on each of them.")] = 4,
    output_tokens: Annotated[int, typer.Option(metavar="N", min=1, max=4_096, help="The longest reply.")] = 24,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the texts and of where turns go.")] = 1,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """What the model's prefix cache finds, because sessions stay at their replica and windows grow at their end alone.

    One conversation on two replicas, through the mesh, and the same one with its turns going round over the replicas
    and with a plain sliding window. JSON: `cached_share` is prompt tokens that the engine found in its KV cache over
    all prompt tokens, by its own count, of all turns but the first, and null where the engine does not say; `epochs`
    has it by epoch of the window, `round_robin` and `sliding_window` for the others. `ttft_cold_ms` and `ttft_warm_ms`
    are medians by the client's clock, through the mesh, of a turn on a window of `ttft_window_tokens` that nobody has
    seen, and of the turns after it. `ttft_affinity_ms` and `ttft_random_ms` are means of turns that go to one replica,
    and to either; their first ones do not count. The exit code is 1 where a goal is missed, which `problems` name: 0.9
    of the prompt's tokens cached over three epochs, and a first token 15 times sooner warm than cold.
    """
    from services.cli.bench.commands import bench_prefix
    from services.cli.bench.prefix_plan import PrefixPlan

    plan = PrefixPlan(engine, model, turns, window_tokens, samples, rounds, output_tokens, seed)
    bench_prefix(plan, home, as_json=as_json)


@app.command()
def million(
    tokens: Annotated[
        int, typer.Option(metavar="N", min=10_000, max=1_250_000, help="Tokens of the document in the window.")
    ] = 1_000_000,
    turns: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Turns of each warm kind.")] = 10,
    output_tokens: Annotated[int, typer.Option(metavar="N", min=1, max=4_096, help="The longest reply.")] = 8,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="A model with room for the window; a random one, made in the cache folder, if not given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the document.")] = 1,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """A window of a million tokens on vLLM, through gateway and store: the first token cold, resident and on a hit.

    The model has random weights and attends to its last 4,096 tokens: it makes no sense, and what a prompt costs beside
    the attention is real. JSON: `cold_first` and `cold_elsewhere` are the first turn, and that of a fork at the other
    replica: `engine_ms` is the engine's own time, `overhead_ms` all the rest that the client waited, `pull_ms` and
    `tokenize_ms` of that. `resident` are turns of a session that is open in the engine, `opening` the one that opened
    it, `prefix_hit` turns that are requests of their own, whose prompt the engine finds in its cache; `ms_by_leg` are
    medians of the receipts' hops. `resident_mb` is memory by process, the engine's own processes with their replica.
    The exit code is 1 where a goal is missed, which `problems` name: the first token within 0.1 s resident and within
    1 s on a prefix hit, and at most 1.5 s beside the engine's time when cold.
    """
    from services.cli.bench.commands import bench_million
    from services.cli.bench.million_plan import MillionPlan

    bench_million(MillionPlan(tokens, turns, output_tokens, seed, model), home, as_json=as_json)


@app.command()
def load(
    seconds: Annotated[int, typer.Option(metavar="N", min=1, max=86_400, help="How long, after the warm-up.")] = 300,
    rate: Annotated[float, typer.Option(metavar="N", min=0.1, max=100_000, help="Turns begun in a second.")] = 170.0,
    sessions: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Sessions at once.")] = 256,
    session_turns: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Turns of a session; then another takes its place.")
    ] = 20,
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Client processes, a connection each.")] = 2,
    processes: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Gateway processes on the one port.")] = 1,
    ttft_ms: Annotated[float, typer.Option(metavar="N", min=0, max=60_000, help="The engine's first token.")] = 0.0,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, max=4_096, help="Tokens of a reply.")] = 64,
    tokens_per_s: Annotated[
        float, typer.Option(metavar="N", min=0, max=100_000, help="The engine's pace; 0 is all at once.")
    ] = 0.0,
    home: HomeOption = None,
    peers: Annotated[
        bool, typer.Option(help="Also find the rate that LiteLLM holds before an engine of the same pace.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turns at a set rate over gRPC, whatever becomes of those before them: overhead, errors, memory, processor time.

    Clients are processes of their own. JSON: `turns_per_s` are turns with a whole reply; `overhead_ms_p50`, `_p99` and
    `_p999` are times from when a turn was due to its last event, less `engine_ms`, which is what the scripted engine
    takes by its settings; `errors` by reason beside them. `rss_slope_mb_per_1k_turns` is each process's growth by least
    squares over the second half of the samples, `rss_mb` its memory; `cpu_ms_per_turn` has the clients, too. A session
    is deleted after its turns and another one made, which counts as no turn. The exit code is 1 where a goal is missed,
    which `problems` name: the rate held, no error, at most 50 ms of overhead at p99, and, from 20,000 turns on, at most
    0.1 MB of growth in 1,000 turns.
    """
    from services.cli.bench.commands import bench_load
    from services.cli.bench.load_plan import LoadPlan, Pace

    if sessions < clients:
        raise typer.BadParameter(f"{sessions}: expected at least one for each client", param_hint="--sessions")
    plan = LoadPlan(seconds, rate, sessions, session_turns, clients, processes, Pace(ttft_ms, tokens, tokens_per_s))
    bench_load(plan, home, with_peers=peers, as_json=as_json)


def _numbers(listed: str, option: str) -> list[int]:
    parts = [part.strip() for part in listed.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{listed!r}: expected numbers such as 2000,200000", param_hint=option)
    if len(set(parts)) != len(parts):
        raise typer.BadParameter(f"{listed!r}: expected each number once", param_hint=option)
    return [int(part) for part in parts]
