"""The smallest real room: health and nothing else.

As its last two arguments it takes `--fail-with CODE`, to die before it is ready, or `--slow MS`, to take so long to
become ready, and as long again to drain.
"""

from __future__ import annotations

import asyncio
import sys

from services.lifecycle import RoomContext, State, run_room
from services.rpc import GrpcServer


class TinyRoom:
    name = "tiny"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._server = GrpcServer(context)
        self._takes_s = int(sys.argv[-1]) / 1_000 if "--slow" in sys.argv else 0.0

    async def start(self) -> None:
        await self._server.start()
        await asyncio.sleep(self._takes_s)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        self._context.lifecycle.move(State.DRAINING)
        await asyncio.sleep(self._takes_s)

    async def stop(self) -> None:
        await self._server.stop()


if __name__ == "__main__":
    if "--fail-with" in sys.argv:
        print("tiny: cannot go on like this", file=sys.stderr)
        sys.exit(int(sys.argv[-1]))
    sys.exit(run_room(TinyRoom, sys.argv[1:-2] if "--slow" in sys.argv else None))
