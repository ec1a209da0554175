"""The same histories through the systems that resend them: a process of `benchmarks/`, which is not installed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import services
from services.cli.bench.load_plan import LoadPlan
from services.cli.errors import CliError

# Of one rate that is tried.
_STAGE_S_MAX: Final = 20
_ROOT: Final = Path(services.__file__).resolve().parent.parent


def available() -> bool:
    """Whether this is a checkout whose `benchmarks/setup.sh` has been run."""
    return (_ROOT / ".bench" / ".ready").exists() and (_ROOT / "benchmarks" / "peers.py").exists()


def require() -> None:
    """Raises CliError, saying what to do, unless the peers are there."""
    if not available():
        raise CliError("PEERS_NOT_FOUND", "the peers are missing: run benchmarks/setup.sh in a checkout, or --no-peers")


async def run(histories: Sequence[int], turns: int, seed: int) -> dict[str, Any]:
    """The peers' figures by name. Raises CliError if they fail; progress goes to stderr."""
    lengths = ",".join(map(str, histories))
    return await _measured("benchmarks.peers", "--turns", turns, "--seed", seed, "--histories", lengths)


async def run_store(turn_bytes: int, lengths: Sequence[int], *, required: bool) -> dict[str, Any]:
    """What keeps conversations in Redis, by name; each that is not there says so, or ends this if `required`."""
    if not (_ROOT / "benchmarks" / "store_peers.py").exists():
        if required:
            require()
        return {}
    return await _measured("benchmarks.store_peers", "--turn-bytes", turn_bytes, "--turns", ",".join(map(str, lengths)))


async def run_load(plan: LoadPlan) -> dict[str, Any]:
    """LiteLLM before an engine of the same pace, at the highest rate that it holds."""
    return await _measured(
        "benchmarks.load_peer",
        *("--rate-max", plan.rate, "--seconds", min(plan.seconds, _STAGE_S_MAX), "--engine-ms", plan.pace.engine_ms),
        *("--sessions", plan.sessions, "--session-turns", plan.session_turns),
    )


async def _measured(module: str, *flags: str | float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, flags)), cwd=_ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if process.returncode != 0:
        raise CliError("PEERS_FAILED", f"{module} ended with {process.returncode}; see its output above")
    figures: dict[str, Any] = json.loads(output)
    return figures
