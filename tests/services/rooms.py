"""A room for the lifecycle's tests, run as a process: `python -m tests.services.rooms --member … --listen …`.

It prints what is asked of it. PROBE says what goes wrong: `start-fails`, `start-hangs` or `drain-hangs`.
"""

from __future__ import annotations

import asyncio
import os
import sys

from services.lifecycle import RoomContext, State, run_room


class EchoRoom:
    """Says every step on its standard output."""

    name = "echo"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._wrong = os.environ.get("PROBE", "")

    async def start(self) -> None:
        await self._say("start", "start-hangs")
        if self._wrong == "start-fails":
            raise RuntimeError("cannot warm")
        self._context.lifecycle.move(State.READY)
        await self._say(f"ready {self._context.member_id} {self._context.listen} {self._context.http_listen}")

    async def drain(self) -> None:
        self._context.lifecycle.move(State.DRAINING)
        await self._say("drain", "drain-hangs")

    async def stop(self) -> None:
        await self._say("stop")

    async def _say(self, step: str, hangs: str = "") -> None:
        print(step, flush=True)
        if hangs and self._wrong == hangs:
            await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(run_room(EchoRoom))
