"""A conversation that grows, kept by LangGraph's Redis checkpointer: JSON on stdout. Runs in `.bench/store`.

    .bench/store/bin/python benchmarks/langgraph_turns.py --url redis://127.0.0.1:6379 --turns 10,100,400 --bytes 2048

A turn is one message and one reply of half the bytes each, in a graph of one node that answers at once.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import redis
from langgraph.checkpoint.redis import RedisSaver  # type: ignore[import-not-found]
from langgraph.graph import START, MessagesState, StateGraph  # type: ignore[import-not-found]

# Turns whose median stands for the number that they lead to.
SPAN = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--turns", required=True)
    parser.add_argument("--bytes", type=int, required=True)
    arguments = parser.parse_args()
    marks = [int(part) for part in arguments.turns.split(",")]
    server = redis.Redis.from_url(arguments.url)
    with RedisSaver.from_conn_string(arguments.url) as saver:
        saver.setup()
        print(json.dumps(measure(graph(saver, arguments.bytes // 2), server, marks, arguments.bytes // 2)))


def graph(saver: RedisSaver, size: int) -> Any:
    """A graph that remembers and answers."""

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", said(len(state["messages"]), size))]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


def measure(compiled: Any, server: redis.Redis, marks: list[int], size: int) -> list[dict[str, float]]:
    """Milliseconds and bytes of a turn around each number of turns."""
    config = {"configurable": {"thread_id": "bench"}}
    taken: list[tuple[float, int, int]] = []
    for number in range(max(marks) + 1):
        before, started = info(server), time.perf_counter()
        compiled.invoke({"messages": [("user", said(number, size))]}, config)
        ms = (time.perf_counter() - started) * 1_000
        after = info(server)
        taken.append((ms, after[0] - before[0], after[1] - before[1]))
    return [point(mark, taken[max(1, mark - SPAN) : mark + 1]) for mark in marks]


def point(mark: int, taken: list[tuple[float, int, int]]) -> dict[str, float]:
    ms, written, kept = zip(*taken, strict=True)
    return {
        "turns": mark,
        "ms_p50": round(median(ms), 3),
        "written_bytes": round(median(written)),
        "kept_bytes": round(median(kept)),
    }


def info(server: redis.Redis) -> tuple[int, int]:
    """Bytes that the server has been sent, and bytes that its data takes."""
    figures = server.info("everything")
    return figures["total_net_input_bytes"], figures["used_memory_dataset"]


def said(number: int, size: int) -> str:
    """A text of so many bytes, another for each number."""
    words = f"In turn {number} the lighthouse keeper counts the ships and writes their names into the book. "
    return (words * (size // len(words) + 1))[:size]


if __name__ == "__main__":
    main()
