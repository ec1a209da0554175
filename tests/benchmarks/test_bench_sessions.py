"""`isthmus bench sessions` as a command on few sessions, what it plans, and what it finds fault with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from services.cli.bench.crowd import Crowd
from services.cli.bench.patience import Patience
from services.cli.bench.population_plan import SessionsPlan, verdict
from services.config import load_settings
from services.errors import DETAILS_KEY, IsthmusError, to_status
from tests.benchmarks.test_bench import bench

COUNTS = st.integers(min_value=2, max_value=1_000_000)
SHARES = st.floats(min_value=0, max_value=0.5)


@pytest.mark.timeout(120)
async def test_the_idle_ones_become_objects_and_any_one_answers(tmp_path: Path) -> None:
    flags = ("--sessions", "60", "--live", "0.05", "--bytes", "1024")
    figures = await bench("sessions", *flags, "--home", tmp_path / "home")
    assert (figures["sessions"], figures["live"]) == (60, 3)
    assert figures["objects_count"] >= 57
    assert figures["objects_bytes"] > 57 * 256
    assert (figures["answers_checked"], figures["answers_wrong"]) == (57, 0)
    assert figures["created_per_s"] > 0
    assert figures["frozen_per_s"] > 0
    assert figures["turns"] > 0
    for name in ("turn", "answer", "list_page"):
        assert 0 < figures[f"{name}_ms_p50"] <= figures[f"{name}_ms_p99"]
    assert 0 < figures["valkey_used_bytes"] <= figures["valkey_used_bytes_peak"] <= figures["valkey_budget_bytes"]
    assert len(figures["shards"]) == 2
    for shard in figures["shards"].values():
        assert 0 < shard["rss_bytes"] <= shard["rss_bytes_peak"] <= shard["rss_budget_bytes"]
    assert figures["within_budget"]


@given(COUNTS, SHARES, st.sampled_from(["single", "cluster"]))
def test_some_sessions_are_live_and_some_are_not_and_the_settings_load(count: int, share: float, valkey: str) -> None:
    plan = SessionsPlan(count, share, 2_048, valkey, seed=1)
    assert len(set(plan.live)) == len(plan.live)
    assert set(plan.live) < set(range(count))
    assert abs(len(plan.live) - count * share) <= 1
    settings = load_settings(None, **plan.sections())
    # A live session speaks before it is idle.
    assert settings.tiering.idle_ms >= 2_000 * plan.live_s


@given(st.integers(min_value=0, max_value=999_999), st.integers(min_value=64, max_value=65_536))
def test_each_session_has_a_text_of_its_own_of_the_length_asked_for(number: int, size: int) -> None:
    crowd = Crowd([], size, seed=1)
    assert len(crowd.text(number).encode()) == size
    assert crowd.text(number) != crowd.text(number + 1)


SHARD = {"rss_bytes": 8, "rss_bytes_peak": 10, "rss_budget_bytes": 10}
FIGURES: dict[str, Any] = {
    "shards": {"context-store-0": SHARD, "context-store-1": SHARD},
    "valkey_used_bytes_peak": 5,
    "valkey_budget_bytes": 5,
    "valkey_within_budget": True,
    "answers_checked": 4,
    "answers_wrong": 0,
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"shards": {"context-store-0": SHARD, "context-store-1": {**SHARD, "rss_bytes_peak": 11}}}, "context-store-1"),
        ({"valkey_within_budget": False}, "valkey"),
        ({"answers_wrong": 1}, "answers"),
    ],
)
def test_a_budget_that_is_passed_or_a_wrong_answer_is_named(changed: dict[str, Any], named: str) -> None:
    assert verdict(FIGURES) == []
    (problem,) = verdict({**FIGURES, **changed})
    assert problem.startswith(named)


def refusal(error: IsthmusError) -> grpc.aio.AioRpcError:
    status: status_pb2.Status = to_status(error)
    details = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), details, error.message)


async def test_what_is_refused_for_now_is_made_again_and_what_is_refused_for_good_is_not() -> None:
    for_now = IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, "full", retry_after_ms=1)
    for_good = IsthmusError(errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, "no more")
    said = [for_now, for_now, None, for_good]

    async def call() -> str:
        error = said.pop(0)
        if error:
            raise refusal(error)
        return "done"

    patience = Patience()
    assert await patience.done(call) == "done"
    assert patience.refusals == {"OVERLOADED": 2}
    with pytest.raises(grpc.aio.AioRpcError):
        await patience.done(call)
    assert said == []
