"""Scripts on one session, run where its primary is. Nothing is decided here.

Every script looks whether the session is cold, that is, an object. Then it is thawed and asked again, so that nobody
above has to know.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

from isthmus.errors.v1 import errors_pb2
from opentelemetry import trace

from context_store.log.keys import Keys
from context_store.log.stored import Meter
from services.errors import IsthmusError
from services.telemetry import HOP, tracer
from services.valkey import Ack, Acknowledger, Argument, Client, Script

_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"
_HOP: Final = {HOP: "context_store.valkey"}
# A session that is frozen again as often as it is thawed is one that nobody uses but this call.
_THAWS_COUNT_MAX: Final = 3

# Brings a cold session back.
Thaw: TypeAlias = Callable[[Keys], Awaitable[None]]


class Running:
    """Runs the scripts by name. Raises redis' errors when Valkey is away."""

    def __init__(self, client: Client, acknowledger: Acknowledger, thaw: Thaw) -> None:
        self._client = client
        self._acknowledger = acknowledger
        self._thaw = thaw
        self._scripts = {path.stem: Script(path) for path in _SCRIPTS.glob("*.lua")}

    async def _command(self, *parts: Argument) -> Any:
        client: Any = self._client
        return await client.execute_command(*parts)

    async def _run(
        self, name: str, keys: Keys, names: Sequence[str], args: Sequence[Argument], meter: Meter | None = None
    ) -> list[Any]:
        """A script's answer, as the primary has it now."""

        async def ask() -> tuple[list[Any], Ack]:
            return await self._scripts[name](self._client, names, args), Ack()

        answer, _ = await self._warm(name, keys, ask, names, args, meter)
        return answer

    async def _run_acknowledged(
        self,
        name: str,
        keys: Keys,
        names: Sequence[str],
        args: Sequence[Argument],
        meter: Meter | None = None,
        *,
        disk: bool = False,
    ) -> tuple[list[Any], Ack]:
        """A script's answer once what it says is where an acknowledgement needs it. Raises NOT_REPLICATED."""

        async def ask() -> tuple[list[Any], Ack]:
            return await self._acknowledger.run(self._scripts[name], names, args, disk=disk)

        return await self._warm(name, keys, ask, names, args, meter)

    async def _warm(
        self,
        name: str,
        keys: Keys,
        ask: Callable[[], Awaitable[tuple[list[Any], Ack]]],
        names: Sequence[str],
        args: Sequence[Argument],
        meter: Meter | None,
    ) -> tuple[list[Any], Ack]:
        started = time.perf_counter()
        for _ in range(_THAWS_COUNT_MAX):
            # A span that nobody records still takes time to make.
            is_traced = trace.get_current_span().is_recording()
            with tracer.start_as_current_span(f"valkey {name}", attributes=_HOP) if is_traced else nullcontext():
                answer, ack = await ask()
            if answer != [b"COLD"]:
                break
            await self._thaw(keys)
        else:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_REVISION_CONFLICT,
                f"sessions/{keys.session} went cold {_THAWS_COUNT_MAX} times under this call; expected it to stay warm",
            )
        if meter:
            meter.valkey_ms += (time.perf_counter() - started) * 1000
            meter.bytes_sent += sum(len(key) for key in names) + sum(_length(one) for one in args)
            meter.bytes_received += sum(_length(one) for one in answer)
        return answer, ack


def _length(value: Any) -> int:
    return len(value) if isinstance(value, bytes | str) else 8
