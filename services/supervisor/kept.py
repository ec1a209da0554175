"""One process of a mesh over all its lives: started, watched, started again after each death, or held down."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from services.config import SupervisorSettings
from services.supervisor import probe
from services.supervisor.backoff import Backoff, RestartPolicy
from services.supervisor.errors import StartFailed
from services.supervisor.logline import LogLine
from services.supervisor.logmux import OWN_NAME, LogMux
from services.supervisor.plan import ProcessSpec
from services.supervisor.process import Process, describe_exit
from services.supervisor.state import ProcessPhase, ProcessState

# What a shell answers for a program that it cannot run.
_CANNOT_START: Final = 127


class Kept:
    """Keeps the process from `begin` until `leave`.

    `changed` is called whenever its state is another, `died` with its name at each death that nobody asked for or that
    `hold` brought about.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        settings: SupervisorSettings,
        mux: LogMux,
        changed: Callable[[], None],
        died: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.phase = ProcessPhase.STARTING
        self.process: Process | None = None
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._mux = mux
        self._changed = changed
        self._died = died
        self._backoff = Backoff(
            RestartPolicy(settings.restart_delay_ms_min, settings.restart_delay_ms_max, settings.restart_healthy_ms)
        )
        self._restarts = 0
        self._deaths_before_ready = 0
        self._task: asyncio.Task[None] | None = None
        self._released = asyncio.Event()
        self._released.set()

    def state(self) -> ProcessState:
        """As mesh.json has it."""
        process = self.process
        return ProcessState(
            name=self.spec.name,
            room=self.spec.room,
            endpoint=str(self.spec.address.reachable),
            http=str(self.spec.http.reachable) if self.spec.http else "",
            phase=self.phase,
            argv=list(self.spec.argv),
            pid=process.pid if process else None,
            started=process.started if process else "",
            restarts=self._restarts,
        )

    def begin(self) -> None:
        """Starts it, and again whenever it dies; `first_ready` tells when it is ready or cannot be helped."""
        self._task = asyncio.create_task(self._keep(), name=self.spec.name)

    async def leave(self) -> None:
        """From here on what dies stays dead. The process itself goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def hold(self, killed_s_max: float) -> None:
        """Kills it and keeps it down until `release`. Returns once it is dead."""
        self._released.clear()
        if self.process is not None:
            process = self.process
            process.send(signal.SIGKILL)
            await process.wait(killed_s_max)
        self.move(ProcessPhase.HELD)

    def release(self) -> None:
        """Lets it start again, at once."""
        self._released.set()

    def move(self, phase: ProcessPhase) -> None:
        """Notes where it stands."""
        if phase in (ProcessPhase.WAITING, ProcessPhase.HELD, ProcessPhase.STOPPED):
            self.process = None
        self.phase = phase
        self._changed()

    def say(self, level: str, text: str) -> None:
        """A line of the supervisor about it."""
        self._mux.say(OWN_NAME, LogLine(level, f"{self.spec.name} {text}"))

    async def _keep(self) -> None:
        while True:
            code, uptime_ms = await self._live()
            self._died(self.spec.name)
            if not self._released.is_set():
                self.say("info", "is held down")
                self.move(ProcessPhase.HELD)
            elif self._gives_up(code):
                return
            else:
                delay_ms = self._backoff.next_delay_ms(uptime_ms)
                self.say("warning", f"{describe_exit(code)}, starts again in {delay_ms} ms")
                self.move(ProcessPhase.WAITING)
                await asyncio.sleep(delay_ms / 1_000)
            while not self._released.is_set():
                await self._released.wait()
            self._restarts += 1

    async def _live(self) -> tuple[int, int]:
        """One life, from start to end: its exit code and how long it was, in milliseconds."""
        try:
            process = self.process = Process.spawn(self.spec, self._mux, self._settings.log_line_bytes_max)
        except OSError as error:
            self.say("error", f"cannot be started: {error}")
            return _CANNOT_START, 0
        self.move(ProcessPhase.STARTING)
        watching = asyncio.create_task(self._watch_ready(process))
        try:
            return await asyncio.shield(process.exited), process.uptime_ms
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch_ready(self, process: Process) -> None:
        limits = self._settings
        await probe.until_ready(self.spec.probe, self.spec.address, limits.probe_ms_max, limits.probe_interval_ms)
        self.move(ProcessPhase.READY)
        self.say("info", f"is ready on {self.spec.address} after {process.uptime_ms} ms")
        if not self.first_ready.done():
            self.first_ready.set_result(None)

    def _gives_up(self, code: int) -> bool:
        """A process that never was ready and dies again and again cannot be helped by a restart."""
        self._deaths_before_ready += 1
        if self.first_ready.done() or self._deaths_before_ready < self._settings.start_deaths_count_max:
            return False
        why = f"{describe_exit(code)}, {self._deaths_before_ready} times, without ever being ready"
        self.first_ready.set_exception(StartFailed(self.spec.name, why, self._mux.tail(self.spec.name)))
        return True
