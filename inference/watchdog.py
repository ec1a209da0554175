"""Watches the engine: one that makes no step while requests wait for its output is stopped and started again.

An engine whose process has died starts another by itself. That takes as long as a start may, and until then gateways
are shown a replica that starts.

`StallJudge` decides and is pure: the clock is passed in, in seconds. `Watchdog` looks, and does what it says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from inference.admission import Admission
from inference.engine import Engine
from inference.metrics import InferenceMetrics
from inference.standing import Standing
from services.config import InferenceSettings
from services.lifecycle import EXIT_FAILED, State
from services.long_task import LongTask

# Looks in the time that an engine may stand still, and the longest between two of them.
_LOOKS: Final = 8
_LOOK_S_MAX: Final = 1.0

_log = structlog.get_logger("watchdog")


class EngineLost(Exception):  # noqa: N818
    """The engine could not be brought back: the process has to end."""


class StallJudge:
    """When an engine is stuck, and how often it may be started again."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._stall_s_max = settings.engine_stall_ms_max / 1000
        self._load_s_max = settings.engine_start_ms_max / 1000
        self._restarts_count_max = settings.engine_restarts_count_max
        self._window_s = settings.engine_restart_window_ms / 1000
        self.look_s: Final = min(_LOOK_S_MAX, self._stall_s_max / _LOOKS)
        self._steps: int | None = None
        self.stalled_s = 0.0
        self._looked_s = 0.0
        self._was_awaited = False
        self._was_loading = False
        self._restarts: deque[float] = deque()

    def look(self, now_s: float, steps: int, *, is_awaited: bool, is_loading: bool = False) -> bool:
        """Whether the engine is stuck; to be asked every `look_s`.

        Only time counts in which requests waited for its output, or in which it was loading: then it has as long as a
        start may take. A look that comes late counts as one in time: this process itself stood still then, and has not
        yet taken in what the engine did meanwhile.
        """
        elapsed_s = min(now_s - self._looked_s, self.look_s)
        if steps != self._steps or is_loading != self._was_loading:
            self.stalled_s = 0.0
        elif is_loading or (is_awaited and self._was_awaited):
            self.stalled_s += elapsed_s
        self._steps, self._looked_s = steps, now_s
        self._was_awaited, self._was_loading = is_awaited, is_loading
        # Half a look less: what fractions lose must not cost a whole one.
        return self.stalled_s >= (self._load_s_max if is_loading else self._stall_s_max) - self.look_s / 2

    def restart(self, now_s: float) -> bool:
        """Counts a restart; False if there were too many lately."""
        while self._restarts and now_s - self._restarts[0] >= self._window_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._restarts_count_max:
            return False
        self._restarts.append(now_s)
        self._steps = None
        return True


class Watchdog:
    """Beside the engine for as long as the room runs. `end` has the process end, when restarts do not help."""

    def __init__(
        self,
        engine: Engine,
        warm: Callable[[], Awaitable[None]],
        admission: Admission,
        standing: Standing,
        metrics: InferenceMetrics,
        settings: InferenceSettings,
        end: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._warm = warm
        self._admission = admission
        self._standing = standing
        self._metrics = metrics
        self._settings = settings
        self._end = end
        self._judge = StallJudge(settings)
        self._task = LongTask()
        self._lost: EngineLost | None = None

    async def start(self) -> None:
        """Begins to watch."""
        self._task.start(self._run(), "watchdog")

    async def stop(self) -> None:
        """Ends the watch, and a restart that is under way."""
        await self._task.stop()

    def check(self) -> None:
        """Raises EngineLost once the engine could not be brought back."""
        if self._lost is not None:
            raise self._lost

    async def _run(self) -> None:
        while self._lost is None:
            await asyncio.sleep(self._judge.look_s)
            is_loading, is_awaited = self._engine.is_loading, self._admission.awaiting > 0
            self._standing.show_engine(is_there=not is_loading)
            if self._judge.look(time.monotonic(), self._engine.steps, is_awaited=is_awaited, is_loading=is_loading):
                await self._recover()

    async def _recover(self) -> None:
        """Puts all requests out, which are as good at another replica, and brings the engine back."""
        _log.error(
            "the engine is stuck",
            stalled_ms=round(self._judge.stalled_s * 1000),
            loading=self._engine.is_loading,
            requests=self._admission.queue.accepted,
            steps=self._engine.steps,
        )
        self._standing.show_engine(is_there=False)
        self._admission.close("the engine made no step any more; this replica starts it again")
        while self._standing.state is State.STARTING:
            if not self._judge.restart(time.monotonic()):
                return self._give_up("the engine stands still, and was started again as often as it may be")
            self._metrics.restarted()
            if await self._restart():
                self._admission.open()
                self._standing.show_engine(is_there=True)
                return None
        # A process that drains has nothing left to finish.
        return None

    async def _restart(self) -> bool:
        """Stops and starts the engine; False if it did not start."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.engine_stop_ms_max / 1000):
                await self._engine.stop()
            async with asyncio.timeout(self._settings.engine_start_ms_max / 1000):
                await self._engine.start()
                await self._warm()
        except Exception:  # noqa: BLE001 - whatever it is, another try may do better
            _log.exception("the engine was not started again")
            return False
        _log.warning("the engine is started again", took_ms=round((time.monotonic() - began_s) * 1000))
        return True

    def _give_up(self, why: str) -> None:
        self._lost = EngineLost(
            f"{why}; restarts: {self._settings.engine_restarts_count_max} "
            f"in {self._settings.engine_restart_window_ms} ms, as inference.engine_restarts_count_max says"
        )
        _log.error("the engine is lost, the process ends", error=str(self._lost))
        self._end()


def end_process(within_s: float) -> None:
    """Has this process drain and stop as SIGTERM does; where that takes longer, it ends then, whatever it does."""
    timer = threading.Timer(within_s, os._exit, (EXIT_FAILED,))
    timer.daemon = True
    timer.start()
    signal.raise_signal(signal.SIGTERM)
