"""`isthmus bench store` as a command, on small sizes: its own mesh, real processes, one JSON document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import store_peers
from tests.benchmarks.test_bench import bench

SIZES: dict[str, int | str] = {
    "--tokens": 20_000,
    "--rounds": 2,
    "--appends": 64,
    "--turns": 3,
    "--reads": 2,
    "--lengths": "5,40",
}


@pytest.mark.timeout(120)
async def test_the_store_is_measured_beside_valkey(tmp_path: Path) -> None:
    flags = [str(part) for flag in SIZES.items() for part in flag]
    figures = await bench("store", *flags, "--no-peers", "--home", tmp_path / "home")
    assert figures["valkey"] == "single"
    assert "peers" not in figures
    levels = figures["append_levels"]
    assert [level["in_flight"] for level in levels] == [1, 16, 64]
    for level in levels:
        for way in ("valkey", "append", "grpc"):
            assert level[f"{way}_per_s"] > 0
            assert 0 < level[f"{way}_ms_p50"] <= level[f"{way}_ms_p99"]
    assert figures["append_ratio_to_valkey"] == min(level["ratio"] for level in levels)
    assert figures["append_ratio_to_valkey_grpc"] == min(level["ratio_grpc"] for level in levels)
    assert 80_000 < figures["window_bytes"] < 120_000
    for name in ("window_read_mb_per_s", "window_read_copied_mb_per_s", "window_read_cold_mb_per_s"):
        assert figures[name] > 0
    assert figures["open_to_manifest_ratio_20k_to_2k"] > 0
    for name in ("open_to_manifest_ms", "cold_load_ms", "freeze_ms"):
        assert set(figures[name]) == {"2000", "20000"}
    first, *_, last = figures["turns"]
    assert (first["turns"], last["turns"]) == (5, 40)
    # A turn writes itself, however long the session is.
    assert last["written_bytes"] < 2 * first["written_bytes"]
    for sizes in figures["memory_per_session_bytes"].values():
        assert 0 < sizes["cold"] < sizes["warm"]
        assert sizes["hot"] > 0


def test_a_peer_without_its_modules_is_skipped_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_peers, "_BIN", tmp_path / "bin")
    with pytest.raises(store_peers.Skipped, match=r"benchmarks/setup\.sh"):
        store_peers.langgraph([1], turn_bytes=100)
