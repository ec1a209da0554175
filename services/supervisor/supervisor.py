"""The supervisor's loop: starts a plan's processes in stages, keeps each alive, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

from services.config import SupervisorSettings
from services.supervisor import identity, probe, state
from services.supervisor.backoff import Backoff, RestartPolicy
from services.supervisor.disk import keep_synced
from services.supervisor.errors import StartFailed
from services.supervisor.home import Home
from services.supervisor.logline import LogLine
from services.supervisor.logmux import LogMux
from services.supervisor.plan import Plan, ProcessSpec
from services.supervisor.process import Process, describe_exit
from services.supervisor.state import MeshState, ProcessPhase, ProcessState

OWN_NAME: Final = "supervisor"
# What a shell answers for a program that it cannot run.
_CANNOT_START: Final = 127
# Every stage has this much, even if those before it used up the whole time.
_STAGE_S_MIN: Final = 1.0
# After SIGKILL a process is gone as soon as the kernel gets to it.
_KILLED_S_MAX: Final = 5.0


class Kept:
    """One process of the plan over all its lives."""

    def __init__(self, spec: ProcessSpec, policy: RestartPolicy) -> None:
        self.spec = spec
        self.backoff = Backoff(policy)
        self.phase = ProcessPhase.STARTING
        self.process: Process | None = None
        self.restarts = 0
        self.deaths_before_ready = 0
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def state(self) -> ProcessState:
        """As mesh.json has it."""
        process = self.process
        return ProcessState(
            name=self.spec.name,
            room=self.spec.room,
            endpoint=str(self.spec.address.reachable),
            phase=self.phase,
            argv=list(self.spec.argv),
            pid=process.pid if process else None,
            started=process.started if process else "",
            restarts=self.restarts,
        )


class Supervisor:
    """Runs a plan. `start`, then `stop` once, also after a failed start; `kill` at any time cuts a stop short."""

    def __init__(self, plan: Plan, home: Home, settings: SupervisorSettings, mux: LogMux) -> None:
        self._plan = plan
        self._home = home
        self._settings = settings
        self._mux = mux
        self._kept: list[Kept] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._phase = ProcessPhase.STARTING
        self._identity = identity.started(os.getpid()) or ""

    @property
    def state(self) -> MeshState:
        """The mesh as mesh.json has it."""
        return MeshState(
            home=str(self._home.path),
            pid=os.getpid(),
            started=self._identity,
            grpc=str(self._plan.grpc.reachable),
            http=f"http://{self._plan.http.reachable}",
            valkey=self._plan.valkey_url,
            log=str(self._home.log),
            phase=self._phase,
            processes=[each.state() for each in self._kept],
        )

    async def start(self) -> None:
        """Returns when every process is ready. Raises StartFailed, naming the one that is not, and why."""
        limits = self._settings
        policy = RestartPolicy(limits.restart_delay_ms_min, limits.restart_delay_ms_max, limits.restart_healthy_ms)
        self._kept = [Kept(spec, policy) for spec in self._plan.processes]
        deadline = time.monotonic() + limits.start_ms_max / 1_000
        for stage in sorted({each.spec.start_stage for each in self._kept}):
            members = [each for each in self._kept if each.spec.start_stage == stage]
            self._keepers += [asyncio.create_task(self._keep(each), name=each.spec.name) for each in members]
            await self._until_ready(members, deadline)
        self._keepers.append(asyncio.create_task(self._keep_synced(), name="disk"))
        self._enter(ProcessPhase.READY)

    async def stop(self) -> None:
        """Stops stage by stage; what is left after `drain_ms_max` is killed. Removes mesh.json."""
        self._enter(ProcessPhase.STOPPING)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        deadline = time.monotonic() + self._settings.drain_ms_max / 1_000
        for stage in sorted({each.spec.stop_stage for each in self._kept}):
            await self._stop_stage([each for each in self._kept if each.spec.stop_stage == stage], deadline)
        self._home.mesh.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kills every process at once. Nothing acknowledged is lost by it: Valkey's log has it."""
        for each in self._kept:
            if each.process is not None:
                each.process.send(signal.SIGKILL)

    async def _until_ready(self, members: Sequence[Kept], deadline: float) -> None:
        pending = {each.first_ready for each in members}
        done, late = await asyncio.wait(
            pending, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_EXCEPTION
        )
        for each in done:
            each.result()
        if late:
            name = next(each.spec.name for each in members if each.first_ready in late)
            why = f"was not ready after {self._settings.start_ms_max} ms (supervisor.start_ms_max)"
            raise StartFailed(name, why, self._mux.tail(name))

    async def _keep_synced(self) -> None:
        try:
            await keep_synced(self._home.valkey, self._settings.disk_sync_ms)
        except OSError as error:
            self._say("error", f"{self._home.valkey} cannot be synced to the disk: {error}")

    async def _keep(self, kept: Kept) -> None:
        while True:
            code = await self._live(kept)
            if self._gives_up(kept, code):
                return
            uptime_ms = kept.process.uptime_ms if kept.process else 0
            delay_ms = kept.backoff.next_delay_ms(uptime_ms)
            self._say("warning", f"{kept.spec.name} {describe_exit(code)}, starts again in {delay_ms} ms")
            self._move(kept, ProcessPhase.WAITING)
            await asyncio.sleep(delay_ms / 1_000)
            kept.restarts += 1

    async def _live(self, kept: Kept) -> int:
        """One life, from start to end."""
        try:
            kept.process = Process.spawn(kept.spec, self._mux, self._settings.log_line_bytes_max)
        except OSError as error:
            self._say("error", f"{kept.spec.name} cannot be started: {error}")
            return _CANNOT_START
        self._move(kept, ProcessPhase.STARTING)
        watching = asyncio.create_task(self._watch_ready(kept))
        try:
            return await asyncio.shield(kept.process.exited)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch_ready(self, kept: Kept) -> None:
        limits = self._settings
        await probe.until_ready(kept.spec.probe, kept.spec.address, limits.probe_ms_max, limits.probe_interval_ms)
        assert kept.process is not None
        self._move(kept, ProcessPhase.READY)
        self._say("info", f"{kept.spec.name} is ready on {kept.spec.address} after {kept.process.uptime_ms} ms")
        if not kept.first_ready.done():
            kept.first_ready.set_result(None)

    def _gives_up(self, kept: Kept, code: int) -> bool:
        """A process that never was ready and dies again and again cannot be helped by a restart."""
        kept.deaths_before_ready += 1
        if kept.first_ready.done() or kept.deaths_before_ready < self._settings.start_deaths_count_max:
            return False
        why = f"{describe_exit(code)}, {kept.deaths_before_ready} times, without ever being ready"
        kept.first_ready.set_exception(StartFailed(kept.spec.name, why, self._mux.tail(kept.spec.name)))
        return True

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
            each.process = None
            self._move(each, ProcessPhase.STOPPED)

    def _move(self, kept: Kept, phase: ProcessPhase) -> None:
        if phase is ProcessPhase.WAITING:
            kept.process = None
        kept.phase = phase
        self._write_state()

    def _enter(self, phase: ProcessPhase) -> None:
        self._phase = phase
        self._say("info", f"the mesh is {phase.value}")
        self._write_state()

    def _write_state(self) -> None:
        try:
            state.write(self._home.mesh, self.state)
        except OSError as error:
            # A full disk must not end the one who keeps the others alive.
            self._say("error", f"{self._home.mesh} cannot be written: {error}")

    def _say(self, level: str, text: str) -> None:
        self._mux.say(OWN_NAME, LogLine(level, text))
