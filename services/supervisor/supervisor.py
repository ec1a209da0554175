"""The supervisor: starts a plan's processes in stages, keeps each alive, lets some come and go, stops all in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

from services.config import SupervisorSettings
from services.supervisor import identity, state
from services.supervisor.errors import StartFailed, SupervisorError, UnknownProcess
from services.supervisor.home import Home
from services.supervisor.kept import Kept
from services.supervisor.logline import LogLine
from services.supervisor.logmux import OWN_NAME, LogMux
from services.supervisor.nodes import take_over
from services.supervisor.plan import START_ROOMS, START_VALKEY, VALKEY, Plan, ProcessSpec, ValkeyMode
from services.supervisor.settle import settle
from services.supervisor.state import MeshState, ProcessPhase, ProcessState
from services.valkey import redacted

# Every stage has this much, even if those before it used up the whole time.
_STAGE_S_MIN: Final = 1.0
# After SIGKILL a process is gone as soon as the kernel gets to it.
_KILLED_S_MAX: Final = 5.0


class Supervisor:
    """Runs a plan. `start`, then `stop` once, also after a failed start; `kill` at any time cuts a stop short.

    Between the two, processes may be added, retired, and held down; all on the event loop that it was started on.
    """

    def __init__(self, plan: Plan, home: Home, settings: SupervisorSettings, mux: LogMux) -> None:
        self.plan = plan
        self.home = home
        self.settings = settings
        self._mux = mux
        self._kept: dict[str, Kept] = {}
        self._successions: set[asyncio.Task[None]] = set()
        self._phase = ProcessPhase.STARTING
        self._identity = identity.started(os.getpid()) or ""

    @property
    def state(self) -> MeshState:
        """The mesh as mesh.json has it."""
        return MeshState(
            home=str(self.home.path),
            pid=os.getpid(),
            started=self._identity,
            grpc=str(self.plan.grpc.reachable),
            http=f"http://{self.plan.http.reachable}",
            valkey=redacted(self.plan.valkey.settings.url),
            log=str(self.home.log),
            phase=self._phase,
            processes=[each.state() for each in self._kept.values()],
        )

    def process(self, name: str) -> ProcessState:
        """One process. Raises UnknownProcess."""
        return self._find(name).state()

    def specs(self) -> list[ProcessSpec]:
        """What runs, or is to, in the order in which it was taken up."""
        return [each.spec for each in self._kept.values()]

    async def start(self) -> None:
        """Returns when every process is ready. Raises SupervisorError, naming what is not, and why."""
        deadline = time.monotonic() + self.settings.start_ms_max / 1_000
        for stage in (START_VALKEY, START_ROOMS):
            members = [self._take(each) for each in self.plan.processes if each.start_stage == stage]
            await self._begin(members, deadline)
            if stage == START_VALKEY:
                await settle(self.plan.valkey, self.settings, max(_STAGE_S_MIN, deadline - time.monotonic()))
                self._say("info", f"Valkey ({self.plan.valkey.mode.value}) can be used")
        self._enter(ProcessPhase.READY)

    async def add(self, spec: ProcessSpec) -> None:
        """Starts one more process and keeps it alive; returns when it is ready.

        Raises SupervisorError if the name is taken, StartFailed if it does not become ready; it is gone then.
        """
        if spec.name in self._kept:
            raise SupervisorError(f"{spec.name}: there is a process of this name already; choose another")
        added = self._take(spec)
        try:
            await self._begin([added], time.monotonic() + self.settings.start_ms_max / 1_000)
        except StartFailed:
            await self._remove(added)
            raise

    async def retire(self, name: str) -> None:
        """Has a process drain (SIGTERM) and waits until it is gone; it is not restarted.

        Killed after `drain_ms_max` and its allowance. Raises UnknownProcess.
        """
        retired = self._find(name)
        self._say("info", f"{name} is told to drain")
        await self._remove(retired)

    async def hold(self, name: str) -> None:
        """Kills a process and keeps it down until `release`; returns once it is dead. Raises UnknownProcess."""
        await self._find(name).hold(_KILLED_S_MAX)

    def release(self, name: str) -> None:
        """Has a process that was held start again, without waiting until it is ready. Raises UnknownProcess."""
        self._find(name).release()

    async def stop(self) -> None:
        """Stops stage by stage; what is left after `drain_ms_max` and its allowance is killed. Removes mesh.json."""
        self._enter(ProcessPhase.STOPPING)
        members = list(self._kept.values())
        await asyncio.gather(*(each.leave() for each in members))
        await asyncio.gather(*self._successions, return_exceptions=True)
        deadline = self._drained_by()
        for stage in sorted({each.spec.stop_stage for each in members}):
            leaving = [each for each in members if each.spec.stop_stage == stage]
            deadline += _allowed_s(leaving)
            await self._stop_stage(leaving, deadline)
        self.home.mesh.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kills every process at once. Nothing acknowledged is lost by it: Valkey's log has it."""
        for each in self._kept.values():
            if each.process is not None:
                each.process.send(signal.SIGKILL)

    def _take(self, spec: ProcessSpec) -> Kept:
        kept = self._kept[spec.name] = Kept(spec, self.settings, self._mux, self._write_state, self._died)
        return kept

    def _find(self, name: str) -> Kept:
        if name not in self._kept:
            raise UnknownProcess(name, list(self._kept))
        return self._kept[name]

    async def _begin(self, members: Sequence[Kept], deadline: float) -> None:
        """Returns when all are ready, by the deadline or their allowance after it. Raises StartFailed, naming one."""
        for each in members:
            each.begin()
        waits = [asyncio.ensure_future(self._first_ready(each, deadline)) for each in members]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _first_ready(self, kept: Kept, deadline: float) -> None:
        allowance = kept.spec.allowance
        wait_s = deadline + allowance.start_ms / 1_000 - time.monotonic()
        done, _ = await asyncio.wait({kept.first_ready}, timeout=max(0.0, wait_s))
        if not done:
            keys = "supervisor.start_ms_max" + (f" + {allowance.section}.start_ms_max" if allowance.start_ms else "")
            why = f"was not ready after {self.settings.start_ms_max + allowance.start_ms} ms ({keys})"
            raise StartFailed(kept.spec.name, why, self._mux.tail(kept.spec.name))
        kept.first_ready.result()

    async def _remove(self, kept: Kept) -> None:
        kept.move(ProcessPhase.STOPPING)
        await kept.leave()
        await self._stop_stage([kept], self._drained_by() + _allowed_s([kept]))
        self._kept.pop(kept.spec.name, None)
        self._mux.forget(kept.spec.name)
        self._write_state()

    def _died(self, name: str) -> None:
        """A primary's replica takes its place before the primary is back."""
        if self.plan.valkey.mode is ValkeyMode.CLUSTER and self._kept[name].spec.room == VALKEY:
            succession = asyncio.create_task(self._succeed(name))
            self._successions.add(succession)
            succession.add_done_callback(self._successions.discard)

    async def _succeed(self, name: str) -> None:
        nodes = {each.spec.address: each.spec.name for each in self._kept.values() if each.spec.room == VALKEY}
        dead = self._kept[name].spec.address
        others = [each for each in nodes if each != dead]
        taker = await take_over(dead, others, self.settings.probe_ms_max)
        if taker is not None:
            self._say("info", f"{nodes[taker]} takes over from {name}")

    async def _stop_stage(self, members: Sequence[Kept], deadline: float) -> None:
        running = [each.process for each in members if each.process is not None and not each.process.exited.done()]
        for process in running:
            process.send(signal.SIGTERM)
        wait_s = max(_STAGE_S_MIN, deadline - time.monotonic())
        await asyncio.gather(*(process.wait(wait_s) for process in running))
        for process in running:
            if not process.exited.done():
                self._say("warning", f"{process.spec.name} did not stop in time and is killed")
                process.send(signal.SIGKILL)
        await asyncio.gather(*(process.wait(_KILLED_S_MAX) for process in running))
        for each in members:
            each.move(ProcessPhase.STOPPED)

    def _drained_by(self) -> float:
        return time.monotonic() + self.settings.drain_ms_max / 1_000

    def _enter(self, phase: ProcessPhase) -> None:
        self._phase = phase
        self._say("info", f"the mesh is {phase.value}")
        self._write_state()

    def _write_state(self) -> None:
        try:
            state.write(self.home.mesh, self.state)
        except OSError as error:
            # A full disk must not end the one who keeps the others alive.
            self._say("error", f"{self.home.mesh} cannot be written: {error}")

    def _say(self, level: str, text: str) -> None:
        self._mux.say(OWN_NAME, LogLine(level, text))


def _allowed_s(leaving: Sequence[Kept]) -> float:
    """What the longest of those that leave together may take beyond the others."""
    return max(each.spec.allowance.stop_ms for each in leaving) / 1_000
