"""How many calls there may be beyond one a turn: a budget that turns pay into and retries and hedges draw on. Pure.

Finagle's RetryBudget: what turns deposit bounds what can be drawn, so that calls that come to nothing are at most
`1 + share` a turn and a reserve. Time alone deposits nothing. A call that another pool took to a good end is given
back: turns that go elsewhere are served, and cost the one who fails nothing.
"""

from __future__ import annotations

from services.config import RetrySettings


class RetryBudget:
    """A balance in calls."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._balance = float(settings.reserve_calls_count)

    @property
    def balance(self) -> float:
        """Calls that may be drawn now."""
        return self._balance

    @property
    def is_enough(self) -> bool:
        """Whether one call may be drawn."""
        # What many small deposits add up to.
        return self._balance >= 1.0 - 1e-9

    @property
    def is_enough_to_hedge(self) -> bool:
        """Whether one may be drawn where nothing has failed yet: half of the reserve is left for what has."""
        return self._balance >= 1.0 + self._settings.reserve_calls_count / 2

    def turn(self) -> None:
        """A turn makes its first call."""
        self._balance = min(self._balance + self._settings.calls_per_turn, float(self._settings.reserve_calls_count))

    def draw(self) -> bool:
        """One call more than a turn has by itself; False where there is no budget for it."""
        if not self.is_enough:
            return False
        self._balance = max(0.0, self._balance - 1.0)
        return True

    def give_back(self) -> None:
        """A call that was drawn has served its turn elsewhere."""
        self._balance = min(self._balance + 1.0, float(self._settings.reserve_calls_count))
