"""The rate that LiteLLM holds: the open loop of `isthmus bench load` at rising rates, before an engine of one pace.

    .venv/bin/python -m benchmarks.load_peer --rate-max 170 --seconds 20 --engine-ms 0 --sessions 256 --session-turns 20

Every turn sends its conversation, as such clients have to. A rate is held if no turn fails, the turns come back as fast
as they are begun, and half of them wait less than a second. What is printed, as JSON, are the figures at the highest
rate that was held, found by doubling from 5 turns a second up to `--rate-max`, and two halvings; or those at the
lowest, if none was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks import servers
from benchmarks.load_client import Errand
from services.cli.bench.load_clients import clients, heard
from services.cli.bench.load_plan import LoadPlan, Pace
from services.cli.bench.load_run import summary

_CLIENT: Final = "benchmarks.load_client"
_RATE_MIN: Final = 5.0
_HALVINGS: Final = 2
_HELD_SHARE: Final = 0.98
_MS_P50_MAX: Final = 1_000.0
_WARM_UP_S: Final = 3.0


async def at_rate(server: servers.Server, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one rate."""
    pace = Pace(arguments.engine_ms, 1, 0.0)
    plan = LoadPlan(
        arguments.seconds, rate, arguments.sessions, arguments.session_turns, 1, 1, pace, warm_up_s=_WARM_UP_S
    )
    errands = [Errand(server.port, server.key, share) for share in plan.shares()]
    async with clients(_CLIENT, errands) as running:
        figures = summary(await heard(running), plan)
    print(
        f"benchmarks: {server.name} at {rate:g}/s: {figures['turns_per_s']}/s, {figures['errors']} errors, "
        f"p50 {figures['overhead_ms_p50']} ms",
        file=sys.stderr,
    )
    return figures


def is_held(figures: dict[str, Any]) -> bool:
    """Whether the peer keeps up."""
    return (
        not figures["errors"]
        and figures["turns_per_s"] >= _HELD_SHARE * figures["rate"]
        and figures["overhead_ms_p50"] <= _MS_P50_MAX
    )


async def search(server: servers.Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures at the highest rate that is held."""
    # Its first requests load what it needs for them, and are no measure.
    await at_rate(server, _RATE_MIN, arguments)
    rate, best, refused = min(_RATE_MIN, arguments.rate_max), None, 0.0
    while best is None or best["rate"] < arguments.rate_max:
        figures = await at_rate(server, rate, arguments)
        if not is_held(figures):
            refused = rate
            break
        best, rate = figures, min(rate * 2, arguments.rate_max)
    if best is None:
        return figures
    for _ in range(_HALVINGS if refused else 0):
        middle = (best["rate"] + refused) / 2
        figures = await at_rate(server, middle, arguments)
        best, refused = (figures, refused) if is_held(figures) else (best, middle)
    return best


def main() -> int:
    """Returns the exit code."""
    arguments = _parse()
    if not servers.BENCH_BIN.exists():
        print("benchmarks: .bench is missing; run benchmarks/setup.sh first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        path = Path(folder)
        with servers.stub(path, arguments.engine_ms) as stub, servers.litellm(stub.port, path) as server:
            figures = asyncio.run(search(server, arguments))
    site = next(servers.BENCH_BIN.parent.glob("lib/python*/site-packages"))
    (distribution,) = metadata.distributions(name="litellm", path=[str(site)])
    print(json.dumps({"litellm": {"version": distribution.version, **figures}}))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate-max", type=float, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--engine-ms", type=float, default=0.0)
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--session-turns", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
