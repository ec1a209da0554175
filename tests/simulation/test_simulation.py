"""Thousands of runs of the turn protocol keep every promise, and a run is a function of its seed.

ISTHMUS_SIMULATION_SEEDS says how many seeds are run; a failure prints the smallest plan that shows it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_SEEDS: Final = int(os.environ.get("ISTHMUS_SIMULATION_SEEDS", "2000"))
# Each part is a test, so that none takes long; each is run by two processes.
_PARTS: Final = 8


async def simulate(*args: str, hash_seed: str = "random") -> tuple[int, str]:
    """Exit status and output of `python -m tests.simulation`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.simulation", *args),
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("part", range(_PARTS))
async def test_every_seed_keeps_every_promise(part: int) -> None:
    bounds = [_SEEDS * at // (2 * _PARTS) for at in (2 * part, 2 * part + 1, 2 * part + 2)]
    runs = [simulate("--base", str(first), "--seeds", str(last - first)) for first, last in pairwise(bounds)]
    for status, output in await asyncio.gather(*runs):
        assert status == 0, output


async def test_a_seed_is_the_same_run_in_every_process() -> None:
    runs = [await simulate("--seed", "2", "--trace", hash_seed=one) for one in ("1", "2")]
    assert len(runs[0][1].splitlines()) > 100
    assert runs[0] == runs[1]
