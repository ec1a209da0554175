"""How long the line takes, by how long the last turns took. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

# Few enough to forget soon how long turns were a while ago.
_TURNS_COUNT_MAX: Final = 32


class Pace:
    """The mean of the last turns' times under way."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_TURNS_COUNT_MAX)

    def ended(self, seconds: float) -> None:
        """A turn has left its place after so long."""
        self._seconds.append(seconds)

    def wait_s(self, ahead: int, places: int) -> float | None:
        """In how long so many and one more have gone from the line; None while nothing is known.

        Where all places are taken, one gets free every `mean / places` seconds (Little's law).
        """
        if not self._seconds:
            return None
        return (ahead + 1) * sum(self._seconds) / len(self._seconds) / places
