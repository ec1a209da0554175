"""The gateway's processes while a mesh runs: started anew one after the other, so that its ports are always served."""

from __future__ import annotations

import asyncio

from services.supervisor.errors import SupervisorError
from services.supervisor.plan import GATEWAY
from services.supervisor.state import ProcessState
from services.supervisor.supervisor import Supervisor


class Gateways:
    """Those of a running mesh."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._changing = asyncio.Lock()

    async def renew(self) -> list[ProcessState]:
        """Has each drain and go, and starts it again; the next one goes when that is ready.

        Raises SupervisorError where a gateway has one process alone, and where one does not come back: those after it
        are left as they are.
        """
        async with self._changing:
            specs = [each for each in self._supervisor.specs() if each.room == GATEWAY]
            if any("--shared-listen" not in each.argv for each in specs):
                raise SupervisorError(
                    "the gateway has one process, and nobody would answer meanwhile; start the mesh with two or more "
                    "(gateway.processes_count)"
                )
            for spec in specs:
                await self._supervisor.retire(spec.name)
                await self._supervisor.add(spec)
            return [self._supervisor.process(each.name) for each in specs]
