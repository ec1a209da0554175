"""What happened in a run, in order: the same for the same seed, to the last latency."""

from __future__ import annotations

import asyncio
from hashlib import blake2b


class Trace:
    """Events with their virtual times."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: list[tuple[float, str, str, str]] = []
        self._is_ended = False

    def note(self, who: str, what: str, detail: str = "") -> None:
        if not self._is_ended:
            self.events.append((self._loop.time(), who, what, detail))

    def end(self) -> None:
        """What comes now are the checks, and no part of the run."""
        self._is_ended = True

    def digest(self) -> str:
        """One value for the whole run."""
        return blake2b(repr(self.events).encode(), digest_size=16).hexdigest()

    def lines(self) -> list[str]:
        return [f"{at * 1000:10.3f} ms  {who:12} {what:48} {detail}".rstrip() for at, who, what, detail in self.events]
