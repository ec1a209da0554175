"""One more turn on a long history through LiteLLM's proxy and vllm-router: JSON on stdout, progress on stderr.

    python -m benchmarks.peers --histories 2000,1000000 --turns 20

Every turn resends the whole history, as these systems need. Turns go round over systems and histories, so that noise
on the machine hits all of them alike. The same stub is also asked directly: what no proxy can be better than.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import servers
from benchmarks.conversation import Client, Conversation, Sample
from services.cli.bench import memory
from services.cli.bench.statistics import percentile
from services.cli.bench.text import delta, text

_WARM_UP_TURNS: Final = 2
Samples = dict[tuple[str, int], list[Sample]]


def main() -> int:
    """Returns the exit code."""
    arguments = _parse()
    if not servers.BENCH_BIN.exists():
        print("benchmarks: .bench is missing; run benchmarks/setup.sh first", file=sys.stderr)
        return 1
    print(json.dumps(run(arguments.histories, arguments.turns, arguments.seed)))
    return 0


def run(histories: Sequence[int], turns: int, seed: int) -> dict[str, object]:
    """The figures of each system by name. `histories` are tokens."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-bench-")))
        stub = stack.enter_context(servers.stub(folder))
        running = {
            "direct": stub,
            "litellm": stack.enter_context(servers.litellm(stub.port, folder)),
            "vllm-router": stack.enter_context(servers.vllm_router(stub.port, folder)),
        }
        clients = {
            name: stack.enter_context(Client(server.port, stub.port, server.key)) for name, server in running.items()
        }
        pids = {name: memory.with_children(server.pid) for name, server in running.items()}
        _warm(clients)
        before = {name: memory.resident_bytes(each) for name, each in pids.items()}
        samples = _measure(clients, histories, turns, seed)
        return {
            name: {
                "version": _version(name),
                "points": [_point(history, samples[name, history]) for history in histories],
                "resident_mb": _resident(before[name], pids[name]),
            }
            for name in running
        }


def _warm(clients: Mapping[str, Client]) -> None:
    for name, client in clients.items():
        conversation = Conversation(text(100, seed=0))
        for number in range(_WARM_UP_TURNS):
            client.turn(conversation, delta(number))
        print(f"benchmarks: {name} is warm", file=sys.stderr)


def _measure(clients: Mapping[str, Client], histories: Sequence[int], turns: int, seed: int) -> Samples:
    conversations = {(name, history): Conversation(text(history, seed)) for history in histories for name in clients}
    samples: Samples = {key: [] for key in conversations}
    for number in range(_WARM_UP_TURNS + turns):
        for (name, history), conversation in conversations.items():
            sample = clients[name].turn(conversation, delta(number))
            if number >= _WARM_UP_TURNS:
                samples[name, history].append(sample)
        print(f"benchmarks: round {number + 1} of {_WARM_UP_TURNS + turns}", file=sys.stderr)
    return samples


def _point(history: int, samples: Sequence[Sample]) -> dict[str, object]:
    overheads = [sample.overhead_ms for sample in samples]
    return {
        "history_tokens": history,
        "overhead_ms_p50": round(percentile(overheads, 0.5), 3),
        "overhead_ms_p99": round(percentile(overheads, 0.99), 3),
        "bytes_by_hop": {
            "client.peer": round(median(sample.client_bytes for sample in samples)),
            "peer.model": round(median(sample.model_bytes for sample in samples)),
        },
    }


def _resident(before_bytes: int, pids: Sequence[int]) -> dict[str, float]:
    sizes = {"before": before_bytes, "after": memory.resident_bytes(pids), "peak": memory.peak_bytes(pids)}
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


def _version(name: str) -> str:
    """The version in .bench, by the package's own metadata."""
    if name == "direct":
        return "stub"
    site = next(servers.BENCH_BIN.parent.glob("lib/python*/site-packages"))
    (distribution,) = metadata.distributions(name=name, path=[str(site)])
    return str(distribution.version)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=lambda value: [int(part) for part in value.split(",")], required=True)
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
