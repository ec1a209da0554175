"""The smallest real room: health and nothing else. `--fail-with CODE` makes it die before it is ready."""

from __future__ import annotations

import sys

from services.lifecycle import RoomContext, State, run_room
from services.rpc import GrpcServer


class TinyRoom:
    name = "tiny"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._server = GrpcServer(context)

    async def start(self) -> None:
        await self._server.start()
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        self._context.lifecycle.move(State.DRAINING)

    async def stop(self) -> None:
        await self._server.stop()


if __name__ == "__main__":
    if "--fail-with" in sys.argv:
        print("tiny: cannot go on like this", file=sys.stderr)
        sys.exit(int(sys.argv[-1]))
    sys.exit(run_room(TinyRoom))
