"""Writes that are answered once a replica, or the disk, holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from isthmus.errors.v1 import errors_pb2
from redis.exceptions import OutOfMemoryError, ResponseError

from services.config import ValkeySettings
from services.errors import IsthmusError
from services.valkey.client import Client, is_cluster
from services.valkey.cluster import Argument
from services.valkey.failover import full
from services.valkey.script import Script
from services.valkey.trips import Then, Trips

_log: Final = structlog.get_logger("valkey")


@dataclass(frozen=True, slots=True)
class Ack:
    """Who held the write when it was answered. `degraded`: fewer than the policy asks for, and it let that pass."""

    replicas: int = 0
    on_disk: bool = False
    degraded: bool = False


class Acknowledger:
    """Runs scripts that write, and waits in the same trip for as many replicas as the settings ask for.

    Scripts that go in one trip share one wait, and its answer is each one's. It covers all that its connection wrote
    before, so a script whose answer is an acknowledgement must write whatever its outcome is.
    """

    def __init__(self, client: Client, settings: ValkeySettings) -> None:
        self._trips = Trips(client, settings)
        self._settings = settings
        default = 1 if is_cluster(client) else 0
        self._replicas = default if settings.replicas_ack_count is None else settings.replicas_ack_count

    async def run(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument] = (), *, disk: bool = False
    ) -> tuple[Any, Ack]:
        """The script's answer and who holds what it wrote; `disk` asks for the disk of each of them, too.

        Raises IsthmusError NOT_REPLICATED when they do not confirm in time and the policy refuses (the script has run:
        sending it again is safe and finds that out), OVERLOADED when Valkey is full, and redis' errors otherwise.
        """
        try:
            answer, *held = await script.followed(self._trips, keys, args, self._waits(disk))
        except OutOfMemoryError as error:
            raise full(error) from error
        except ResponseError as error:
            if str(error).startswith("NOREPLICAS"):
                raise self._refusal(str(error)) from error
            raise
        return answer, self._judged(script, held[-1], disk) if held else Ack()

    async def shared(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument] = ()) -> Any:
        """The script's answer, which waits for nobody: for work in bulk, of which many calls go in one trip."""
        return (await script.followed(self._trips, keys, args))[0]

    async def aclose(self) -> None:
        """Waits for scripts whose callers have gone; to be called before the client closes."""
        await self._trips.aclose()

    def _waits(self, disk: bool) -> Then:
        # A replica that WAITAOF is the first to ask tells of its disk a second later; one that WAIT has asked, at once.
        replicas: Then = (("WAIT", self._replicas, self._settings.replica_wait_ms_max),) if self._replicas else ()
        return (*replicas, ("WAITAOF", 1, self._replicas, self._settings.disk_wait_ms_max)) if disk else replicas

    def _judged(self, script: Script, held: Any, disk: bool) -> Ack:
        if isinstance(held, Exception):
            problem, ack = f"{held}", Ack(degraded=True)
        else:
            disks, replicas = held if disk else (0, held)
            if replicas >= self._replicas and disks >= disk:
                return Ack(replicas, disk)
            problem, ack = _missing(replicas, self._replicas, disks, disk), Ack(replicas, bool(disks), degraded=True)
        if self._settings.replica_policy == "refuse":
            raise self._refusal(problem)
        _log.warning("acknowledged with fewer copies", script=script.name, problem=problem)
        return ack

    def _refusal(self, problem: str) -> IsthmusError:
        message = (
            f"the write is not confirmed: {problem}; expected {self._replicas} replicas to hold it: try again, or have "
            "valkey.replica_policy degrade"
        )
        return IsthmusError(errors_pb2.ERROR_REASON_NOT_REPLICATED, message)


def _missing(replicas: int, wanted: int, disks: int, disk: bool) -> str:
    where = " on their disk" if disk else ""
    own = "; the primary's own disk does not hold it yet" if disk and not disks else ""
    return f"{replicas} of {wanted} replicas hold it{where} in time{own}"
