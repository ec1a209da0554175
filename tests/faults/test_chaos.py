"""`isthmus chaos` as a command: a cluster and its rooms killed under load, and every acknowledgement kept."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

PROMISED = ("lost", "doubled", "reordered", "errors_uncured")


async def started(*arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "chaos", *map(str, arguments), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_nothing_acknowledged_is_lost_while_processes_die(tmp_path: Path) -> None:
    process = await started("--seconds", "20", "--seed", "3", "--clients", "3", "--home", tmp_path / "home")
    output, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    figures = json.loads(output)
    assert {name: figures[name] for name in PROMISED} == dict.fromkeys(PROMISED, 0)
    assert figures["faults"] >= 2
    assert figures["faults"] == sum(figures["faults_by_kind"].values())
    assert figures["turns_acknowledged"] > figures["sessions"] * figures["faults"]
    assert figures["recovery_s_max"] > 0


async def test_an_interrupt_stops_the_mesh_and_still_reports(tmp_path: Path) -> None:
    process = await started("--seconds", "600", "--valkey", "single", "--home", tmp_path / "home")
    assert process.stderr is not None
    # The first line is the first fault's.
    first = await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, said = await process.communicate()
    assert process.returncode == 130, (first + said).decode()
    figures = json.loads(output)
    assert figures["interrupted"]
    assert figures["faults"] >= 1
    assert {name: figures[name] for name in PROMISED} == dict.fromkeys(PROMISED, 0)
    assert not (tmp_path / "home" / "mesh.json").exists()


@pytest.mark.parametrize(("flag", "value"), [("--valkey", "redis://127.0.0.1"), ("--shards", "1"), ("--seconds", "0")])
async def test_a_flag_that_makes_no_sense_is_refused(flag: str, value: str) -> None:
    process = await started(flag, value)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert flag in json.loads(said)["error"]["message"]
