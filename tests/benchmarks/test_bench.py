"""`isthmus bench` as a command: its own mesh, real processes, one JSON document."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from services.cli.bench.text import text

HOPS = {"client.gateway", "gateway.context_store", "context_store.valkey", "gateway.inference"}


async def bench(*arguments: str | Path) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "bench", *map(str, arguments), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return json.loads(output)


@pytest.mark.timeout(240)
async def test_a_turn_costs_the_same_behind_ten_times_the_history(tmp_path: Path) -> None:
    figures = await bench(
        *("turn", "--histories", "2000,20000", "--turns", "8", "--no-peers"), "--home", tmp_path / "home"
    )
    small, large = figures["points"]
    assert figures["turns"] == 8
    assert figures["machine"]["cores"] >= 1
    assert "peers" not in figures
    assert [small["history_tokens"], large["history_tokens"]] == [2_000, 20_000]
    for each in (small, large):
        assert each["history_tokens"] < each["window_tokens"][0] < each["history_tokens"] + 2_000
        assert 0 < each["overhead_ms_p50"] <= each["overhead_ms_p99"]
        assert set(each["bytes_by_hop"]) == HOPS
    assert all(size <= 1_024 for size in figures["bytes_spread"].values())
    assert 0.2 < figures["ratio_p50_20k_to_2k"] < 5


@pytest.mark.timeout(240)
async def test_an_ingested_file_goes_in_whole_and_stays_out_of_the_gateways_memory(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text(1_000_000, seed=1))
    figures = await bench("ingest", file, "--home", tmp_path / "home")
    assert figures["file_bytes"] == file.stat().st_size
    assert figures["mb_per_s"] > 0
    gateway = figures["resident_mb"]["gateway-0"]
    assert gateway["peak"] - gateway["before"] < 32


@pytest.mark.parametrize("histories", ["", "2k", "0", "2000,2000", "-5"])
async def test_histories_that_are_no_lengths_are_refused(histories: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "bench", "turn", f"--histories={histories}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--histories" in said
