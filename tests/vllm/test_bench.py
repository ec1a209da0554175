"""`isthmus bench prefix` and `isthmus bench million` on vLLM, on small sizes: real meshes, two replicas each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.test_bench_prefix import bench

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("cores_are_shared")]


async def test_the_prefix_cache_is_measured_by_the_engines_own_count(model_folder: Path, tmp_path: Path) -> None:
    sizes = ("--turns", "10", "--window-tokens", "1000", "--samples", "1", "--rounds", "2", "--output-tokens", "8")
    code, figures, _ = await bench("prefix", "--model", model_folder, *sizes, "--home", tmp_path / "home")
    assert code in (0, 1)
    assert figures["engine"] == "vllm"
    assert len(figures["epochs"]) >= 3
    assert figures["replicas_used"] == 1
    # A block of 32 tokens is found whole or not at all, and these windows have few.
    assert 0.5 < figures["cached_share"] < 1
    assert figures["sliding_window"]["cached_share"] < figures["round_robin"]["cached_share"] < figures["cached_share"]
    assert figures["cold_cached_share"] < 0.1
    assert figures["warm_cached_share"] > 0.85
    assert figures["cold_to_warm"] > 1


async def test_a_long_window_is_measured_cold_resident_and_on_a_prefix_hit(tmp_path: Path) -> None:
    # More than travels with a manifest, so that both replicas have to read it from the shard.
    code, figures, _ = await bench("million", "--tokens", "80000", "--turns", "2", "--home", tmp_path / "home")
    # On a machine with other work it may be too slow for its goals; all else is as it should be.
    assert code == (1 if figures["problems"] else 0)
    assert all(" ms" in problem for problem in figures["problems"]), figures["problems"]
    assert 80_000 < figures["window_tokens"] < 81_000
    first, elsewhere = figures["cold_first"], figures["cold_elsewhere"]
    assert {first["replica"], elsewhere["replica"]} == {"inference-0", "inference-1"}
    for each in (first, elsewhere):
        assert each["cached_tokens"] < 100
        assert each["pull_ms"] > 0
        assert each["tokenize_ms"] > 0
        assert 0 < each["engine_ms"] < each["engine_ms"] + each["overhead_ms"]
    assert (figures["resident"]["turns_resident"], figures["prefix_hit"]["turns_resident"]) == (2, 0)
    for kind in ("opening", "resident", "prefix_hit"):
        assert figures[kind]["replicas"] == [first["replica"]]
        assert figures[kind]["cached_share_min"] > 0.99
        assert figures[kind]["ttft_ms"] < first["ttft_cold_ms"]
    for process, sizes in figures["resident_mb"].items():
        assert 0 < sizes["before"] <= sizes["peak"]
        # The engine's own processes are in it.
        assert not process.startswith("inference") or sizes["before"] > 1_000
