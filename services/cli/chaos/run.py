"""One run: the load goes on, faults come one after another, and at the end the logs are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import RedisError

from services.cli.chaos.audit import Verdict, audit
from services.cli.chaos.ledger import Ledger
from services.cli.chaos.mesh import StruckMesh
from services.cli.chaos.plan import Fault, Strike, Target, faults, targets
from services.cli.chaos.traffic import ATTEMPT_S_MAX, TURN_S_MAX, Traffic
from services.supervisor.errors import SupervisorError

# A mesh that is not served or whole again by then will not be.
_MEND_S_MAX: Final = 60.0
# What turns under way get when the run was interrupted.
_HURRIED_S_MAX: Final = 5.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was: when, whom it hit, how long service was away, and how long until the mesh was whole."""

    kind: str
    at_s: float
    hit: tuple[Target, ...]
    away_s: float
    whole_s: float


@dataclass(slots=True)
class Outcome:
    """All that a run has found out. `verdict` is None where the logs could not be read, and `failure` says why."""

    seed: int
    ledger: Ledger
    seconds: float = 0.0
    injected: list[Injected] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    failure: str | None = None
    interrupted: bool = False


class Run:
    """`go` once. A cancellation ends it early, with its outcome complete; `outcome` is filled as the run goes on."""

    def __init__(
        self,
        mesh: StruckMesh,
        traffic: Traffic,
        outcome: Outcome,
        by_kind: Mapping[str, tuple[Strike, ...]],
        tell: Callable[[Injected], None],
    ) -> None:
        self._mesh = mesh
        self._traffic = traffic
        self._outcome = outcome
        self._ledger = outcome.ledger
        self._faults = faults(outcome.seed, by_kind)
        self._tell = tell
        self._began = 0.0
        self._striking: asyncio.Task[None] | None = None

    async def go(self, seconds: float, url: str, tenant: str) -> None:
        """Load and faults for so many seconds, then the audit."""
        await self._traffic.start()
        self._began = time.monotonic()
        try:
            await self._served_since(self._began)
            await self._strike_until(self._began + seconds)
        except asyncio.CancelledError:
            # The mesh is stopped after this returns: what it was asked to find out, it still does.
            self._outcome.interrupted = True
        except (TimeoutError, RedisError, SupervisorError) as error:
            self._outcome.failure = str(error)
        await self._finish(url, tenant)

    async def _finish(self, url: str, tenant: str) -> None:
        outcome = self._outcome
        if self._striking is not None:
            await asyncio.gather(self._striking, return_exceptions=True)
        self._mesh.release()
        await self._traffic.stop(_HURRIED_S_MAX if outcome.interrupted else TURN_S_MAX + ATTEMPT_S_MAX)
        outcome.seconds = time.monotonic() - self._began
        try:
            await self._mesh.whole(_MEND_S_MAX)
            outcome.verdict = await asyncio.to_thread(audit, url, tenant, self._ledger)
        except (TimeoutError, RedisError) as error:
            outcome.failure = outcome.failure or f"the logs cannot be read: {error}"

    async def _strike_until(self, deadline: float) -> None:
        for fault in self._faults:
            await asyncio.sleep(min(fault.breather_ms / 1_000, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                return
            hit = targets(fault, await self._mesh.topology())
            if hit:
                await self._inject(fault, hit)
            else:
                self._outcome.skipped.append(fault.kind)

    async def _inject(self, fault: Fault, hit: tuple[Target, ...]) -> None:
        struck = time.monotonic()
        # Half a strike, such as a shard that nobody waits for any more, would leave a mesh that is never whole.
        self._striking = asyncio.create_task(self._mesh.strike(hit, _MEND_S_MAX), name=fault.kind)
        await asyncio.shield(self._striking)
        await self._served_since(time.monotonic())
        await self._mesh.whole(_MEND_S_MAX)
        whole = time.monotonic()
        await self._served_since(whole)
        injected = Injected(
            kind=fault.kind,
            at_s=struck - self._began,
            hit=hit,
            away_s=self._ledger.away_s(struck, whole),
            whole_s=whole - struck,
        )
        self._outcome.injected.append(injected)
        self._tell(injected)

    async def _served_since(self, since: float) -> None:
        while not self._ledger.all_served_since(since):
            self._traffic.check()
            if time.monotonic() > since + _MEND_S_MAX:
                raise TimeoutError(f"not every session was served within {_MEND_S_MAX:g} s")
            await asyncio.sleep(_POLL_S)
