"""What `isthmus bench million` plans and finds fault with; `tests/vllm/test_bench.py` runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import engines
from services.cli.bench import million_plan
from services.cli.bench.million_plan import ENGINE, PULL, TOKENS_MAX, MillionPlan, verdict
from services.cli.bench.timed import TimedTurn
from services.cli.errors import CliError
from services.config import load_settings
from services.ring import Ring
from services.router import session_key

PLAN = MillionPlan(tokens=1_000_000, turns=3, output_tokens=8, seed=1, model=None)
TURN = TimedTurn(
    ttft_ms=900.0,
    wall_ms=1_000.0,
    epoch=1,
    replica="inference-0",
    window_tokens=1_000,
    cached_tokens=990,
    resident=False,
    legs={ENGINE: 600.0, PULL: 100.0},
    missed_ms=250.0,
)


def test_the_cache_has_room_for_the_longest_window_and_one_that_stays_open() -> None:
    settings = load_settings(None, **replace(PLAN, tokens=TOKENS_MAX).sections(Path("/models/random")))
    assert settings.vllm.model == "/models/random"
    room = (settings.inference.kv_cache_gib << 30) * settings.vllm.residents_kv_share_max
    # Two layers, a key and a value each, one head of 32, two bytes.
    assert room > 256 * TOKENS_MAX


def test_a_model_of_ones_own_keeps_its_cache() -> None:
    own = Path("/models/own")
    assert "kv_cache_gib" not in replace(PLAN, model=own).sections(own)["inference"]


@given(st.integers(min_value=0, max_value=1))
def test_a_fork_is_found_for_the_other_replica(number: int) -> None:
    replicas = {"inference-0": 1.0, "inference-1": 1.0}
    ring, owner = Ring(replicas, 64), f"inference-{number}"
    fork = million_plan.fork_elsewhere(ring, "local", "million", owner)
    assert ring.owner(session_key("local", fork)) != owner
    assert fork.startswith("million-")


def test_a_cold_turn_is_taken_apart() -> None:
    figures = million_plan.cold(TURN)
    assert (figures["ttft_cold_ms"], figures["engine_ms"], figures["overhead_ms"]) == (900.0, 600.0, 400.0)
    assert (figures["pull_ms"], figures["tokenize_ms"]) == (100.0, 150.0)


def test_warm_turns_are_told_by_their_median() -> None:
    turns = [replace(TURN, ttft_ms=ms, resident=ms < 3) for ms in (1.0, 2.0, 9.0)]
    figures = million_plan.warm(turns)
    assert (figures["turns"], figures["turns_resident"]) == (3, 2)
    assert figures["replicas"] == ["inference-0"]
    assert (figures["ttft_ms"], figures["ttft_ms_max"], figures["cached_share_min"]) == (2.0, 9.0, 0.99)
    assert figures["ms_by_leg"] == {ENGINE: 600.0, PULL: 100.0}


WARM = {"turns": 3, "turns_resident": 3, "replicas": ["inference-0"], "ttft_ms": 100.0, "cached_share_min": 0.99}
FIGURES: dict[str, Any] = {
    "tokens": 1_000,
    "window_tokens": 1_000,
    "cold_first": {"overhead_ms": 1_500.0, "replica": "inference-0"},
    "opening": WARM,
    "resident": WARM,
    "prefix_hit": {**WARM, "turns_resident": 0, "ttft_ms": 1_000.0},
    "cold_elsewhere": {"overhead_ms": 1_500.0, "replica": "inference-1"},
}


@pytest.mark.parametrize(
    ("where", "changed", "named"),
    [
        ("opening", {"replicas": ["inference-1"]}, "opening"),
        ("resident", {"ttft_ms": 100.1}, "resident"),
        ("resident", {"replicas": ["inference-0", "inference-1"]}, "resident"),
        ("resident", {"turns_resident": 2}, "resident"),
        ("prefix_hit", {"ttft_ms": 1_000.1}, "prefix_hit"),
        ("prefix_hit", {"turns_resident": 1}, "prefix_hit"),
        ("prefix_hit", {"cached_share_min": 0.98}, "prefix_hit"),
        ("cold_first", {"overhead_ms": 1_501.0}, "cold_first"),
        ("cold_elsewhere", {"overhead_ms": 1_501.0}, "cold_elsewhere"),
        ("cold_elsewhere", {"replica": "inference-0"}, "cold_elsewhere"),
    ],
)
def test_a_goal_that_is_missed_is_named(where: str, changed: dict[str, Any], named: str) -> None:
    assert verdict(FIGURES) == []
    (problem,) = verdict({**FIGURES, where: {**FIGURES[where], **changed}})
    assert problem.startswith(named)


def test_a_window_that_is_too_short_is_named() -> None:
    (problem,) = verdict({**FIGURES, "window_tokens": 999})
    assert problem.startswith("window_tokens")


def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CliError, match=r"make setup-vllm") as raised:
        engines.require_engine("vllm")
    assert raised.value.reason == "ENGINE_NOT_INSTALLED"
    engines.require_engine("local")
