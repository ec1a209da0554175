"""`isthmus bench prefix` as a command on few turns, what it plans, and what it finds fault with."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from services.cli.bench import prefix_plan
from services.cli.bench.prefix_driver import manifest
from services.cli.bench.prefix_plan import VOICES, PrefixPlan, verdict
from services.cli.bench.timed import TimedTurn
from services.config import load_settings
from services.digest import EMPTY, chain, item_digest

PLAN = PrefixPlan("scripted", None, turns=12, window_tokens=1_000, samples=1, rounds=2, output_tokens=24, seed=1)
TURN = TimedTurn(
    ttft_ms=10.0,
    wall_ms=20.0,
    epoch=1,
    replica="inference-0",
    window_tokens=100,
    cached_tokens=90,
    resident=False,
    legs={},
)


async def bench(*arguments: str | Path) -> tuple[int, Any, Any]:
    """A bench that may miss its goals: exit code, figures, and the error if there is one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "bench", *map(str, arguments), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, said = await process.communicate()
    assert process.returncode is not None
    last = said.decode().splitlines()[-1] if process.returncode else "{}"
    return process.returncode, json.loads(output or "{}"), json.loads(last)


@pytest.mark.timeout(240)
async def test_a_conversation_through_the_mesh_finds_more_in_the_cache_than_either_other_way(tmp_path: Path) -> None:
    flags = ("--engine", "scripted", "--turns", "12", "--window-tokens", "1000", "--samples", "1", "--rounds", "2")
    code, figures, error = await bench("prefix", *flags, "--home", tmp_path / "home")
    assert (figures["engine"], figures["turns"], figures["window_tokens_max"]) == ("scripted", 12, 1_000)
    assert [epoch["epoch"] for epoch in figures["epochs"]][:3] == [1, 2, 3]
    assert sum(epoch["turns"] for epoch in figures["epochs"]) == 12
    assert all(epoch["window_tokens"][1] <= 1_100 for epoch in figures["epochs"])
    assert figures["replicas_used"] == 1
    shares = [figures[name]["cached_share"] for name in ("round_robin", "sliding_window")]
    assert all(0 < share < figures["cached_share"] for share in shares)
    assert 900 < figures["ttft_window_tokens"] < 1_300
    assert figures["cold_cached_share"] == 0
    assert figures["warm_cached_share"] > 0.9
    assert figures["affinity_cached_share"] > 0.9
    for name in ("cold", "warm", "affinity", "random"):
        assert figures[f"ttft_{name}_ms"] > 0
    # So few turns cannot reach the goal: what they say is new is too much of a window. The command says so.
    assert code == 1
    assert error["error"]["reason"] == "GOAL_MISSED"
    assert figures["problems"] == [error["error"]["message"]]
    assert figures["problems"][0].startswith("cached_share: ")
    assert not figures["met"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--engine", "scripted", "--model", "some"), "USAGE"), (("--engine", "some"), "CONFIG")],
)
async def test_what_cannot_be_measured_is_refused_before_anything_starts(flags: Sequence[str], reason: str) -> None:
    code, figures, error = await bench("prefix", *flags)
    assert (code, figures, error["error"]["reason"]) == (2, {}, reason)


@given(st.integers(min_value=2, max_value=300), st.integers(min_value=512, max_value=20_000))
def test_a_conversation_fills_its_window_one_and_a_half_times_without_replies(turns: int, window: int) -> None:
    plan = replace(PLAN, turns=turns, window_tokens=window)
    assert plan.message_tokens * turns > 1.5 * window
    settings = load_settings(None, **plan.sections())
    assert settings.mesh.replicas == prefix_plan.REPLICAS
    # There are summaries of most of an epoch before it ends.
    assert settings.store.segment_tokens <= window / 8


def test_no_text_comes_twice() -> None:
    texts = [PLAN.message(number, voice) for number in range(PLAN.turns) for voice in VOICES]
    texts += [part for session in range(6) for part in PLAN.parts(session)]
    texts += [replace(PLAN, seed=2).message(number, VOICES[0]) for number in range(PLAN.turns)]
    assert len(set(texts)) == len(texts)
    # The voices say the same.
    assert len({PLAN.message(0, voice).partition(":")[2] for voice in VOICES}) == 1


@pytest.mark.parametrize("engine", ["vllm", "openai:http://127.0.0.1:8000"])
def test_the_model_goes_to_the_engine_that_runs_it(engine: str) -> None:
    settings = load_settings(None, **replace(PLAN, engine=engine, model="some-model").sections())
    assert getattr(settings, engine.partition(":")[0]).model == "some-model"


@given(st.lists(st.tuples(st.integers(1, 1_000), st.floats(0, 1)), min_size=1))
def test_the_share_is_of_all_tokens_together(turns: list[tuple[int, float]]) -> None:
    timed = [replace(TURN, window_tokens=size, cached_tokens=int(size * part)) for size, part in turns]
    share = prefix_plan.cached_share(timed)
    cached = sum(turn.cached_tokens or 0 for turn in timed)
    assert share == round(cached / sum(size for size, _ in turns), 4)
    assert prefix_plan.cached_share([*timed, replace(TURN, cached_tokens=None)]) is None


def test_the_first_turn_counts_in_no_share() -> None:
    turns = [
        replace(TURN, cached_tokens=0),
        TURN,
        replace(TURN, epoch=2, cached_tokens=50, ttft_ms=30.0),
        replace(TURN, epoch=2, resident=True, ttft_ms=90.0),
    ]
    assert prefix_plan.conversation(turns) == {"cached_share": 0.7667, "ttft_ms_p50": 20.0, "turns_resident": 1}
    first, second = prefix_plan.epochs(turns)
    assert (first["turns"], first["cached_share"], first["window_tokens"]) == (2, 0.9, [100, 100])
    assert (second["epoch"], second["turns"], second["cached_share"]) == (2, 2, 0.7)
    assert prefix_plan.epochs(turns[:1])[0]["cached_share"] is None


def test_what_one_replica_saves_is_told_by_means_and_what_a_cache_saves_by_medians() -> None:
    slow = replace(TURN, ttft_ms=100.0, cached_tokens=0)
    figures = prefix_plan.placed([TURN, TURN], [TURN, TURN, TURN, slow])
    assert (figures["ttft_affinity_ms"], figures["ttft_random_ms"]) == (10.0, 32.5)
    assert figures["random_to_affinity"] == 3.25
    assert figures["random_cached_share"] == 0.675
    figures = prefix_plan.first_tokens([slow], [TURN, TURN, slow])
    assert (figures["ttft_cold_ms"], figures["ttft_warm_ms"], figures["cold_to_warm"]) == (100.0, 10.0, 10.0)


FIGURES: dict[str, Any] = {"engine": "vllm", "cached_share": 0.9, "epochs": [{}, {}, {}], "cold_to_warm": 15.0}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cached_share": 0.89}, "cached_share"),
        ({"epochs": [{}, {}]}, "epochs"),
        ({"cold_to_warm": 14.9}, "cold_to_warm"),
    ],
)
def test_a_goal_that_is_missed_is_named(changed: dict[str, Any], named: str) -> None:
    assert verdict(FIGURES) == []
    (problem,) = verdict({**FIGURES, **changed})
    assert problem.startswith(named)


def test_what_an_engine_does_not_say_is_not_judged() -> None:
    assert verdict({**FIGURES, "engine": "local", "cached_share": None}) == []
    # The scripted engine's first token does not wait for the prompt.
    assert verdict({**FIGURES, "engine": "scripted", "cold_to_warm": 1.0}) == []


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_a_window_that_travels_whole_is_chained_over_its_items(texts: list[str]) -> None:
    items = [
        window_pb2.WindowItem(
            kind=window_pb2.WINDOW_ITEM_KIND_MESSAGE,
            role=message_pb2.ROLE_USER,
            text=text,
            first_sequence=number,
            last_sequence=number,
        )
        for number, text in enumerate(texts, 1)
    ]
    for item in items:
        item.digest = item_digest(item)
    whole = manifest(items)
    digest = EMPTY
    for item in items:
        digest = chain(digest, item.digest)
    assert (whole.end.item_count, whole.end.digest) == (len(items), digest)
    assert (whole.prefix.item_count, list(whole.new_items)) == (0, items)
