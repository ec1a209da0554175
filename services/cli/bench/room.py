"""What only a room can measure of itself: `python -m context_store.bench` as a process on the mesh's own settings."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CliError
from services.config import ENV_CONFIG

_LINE_BYTES_MAX: Final = 1 << 20
_SAID_CHARS_MAX: Final = 4_000


async def measure(settings: Path, arguments: list[str], show: Callable[[int, int], None]) -> Any:
    """The figures of one of its commands; `show` is told how far it has come. Raises CliError if it fails."""
    process = await asyncio.create_subprocess_exec(
        # -P: a folder of the same name in the user's working directory must not stand for the room.
        *(sys.executable, "-P", "-m", "context_store.bench", *arguments),
        env={**os.environ, ENV_CONFIG: str(settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(process.stderr.read())
    figures: Any = None
    try:
        async for line in process.stdout:
            told = json.loads(line)
            if "figures" in told:
                figures = told["figures"]
            else:
                show(told["done"], told["total"])
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        problem = (await said).decode(errors="replace")[-_SAID_CHARS_MAX:]
    if process.returncode != 0 or figures is None:
        raise CliError("BENCH_FAILED", f"context_store.bench ended with {process.returncode}; it said: {problem}")
    return figures
