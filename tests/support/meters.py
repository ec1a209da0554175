"""The meters' own script on a clock of the test's: Lua 5.1 over one keyspace, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from services.config.limits import CallerLimits
from services.limits import keeper
from services.limits.callers import Caller, Kind
from services.limits.keeper import Meters
from services.valkey import Acknowledger
from tests.simulation.database import Database, Hash, Reply, Scores
from tests.simulation.lua import scripts

LEASE_MS = 15_000
START_US = 1_763_700_000_000_000


class Clocked(Database):
    """A keyspace in which keys go when their time has come, and what `meters.lua` asks for besides."""

    def __init__(self) -> None:
        self.now_us = START_US
        self.ends_us: dict[bytes, int] = {}
        super().__init__(lambda: self.now_us)

    def execute(self, parts: Sequence[bytes]) -> Reply:
        for key in [key for key, end in self.ends_us.items() if end <= self.now_us]:
            self.values.pop(key, None)
            del self.ends_us[key]
        return super().execute(parts)

    def _pexpire(self, key: bytes, ms: bytes) -> Reply:
        if key not in self.values:
            return 0
        self.ends_us[key] = self.now_us + int(ms) * 1_000
        return 1

    def _trim(self, key: bytes) -> None:
        super()._trim(key)
        if key not in self.values:
            self.ends_us.pop(key, None)

    def _del(self, *keys: bytes) -> Reply:
        for key in keys:
            self.ends_us.pop(key, None)
        return super()._del(*keys)

    def _zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> Reply:
        assert low == b"-inf"
        scores = self._get(key, Scores)
        return self._zrem(key, *[member for member, score in scores.items() if score <= float(high)])

    def _zrange(self, key: bytes, low: bytes, high: bytes, by: bytes = b"", *limit: bytes) -> Reply:
        assert (low, high, by) == (b"0", b"0", b"WITHSCORES")
        first = sorted((score, member) for member, score in self._get(key, Scores).items())[:1]
        return [part for score, member in first for part in (member, b"%.17g" % score)]

    def used(self, caller: str = "tenant", tenant: str = "acme") -> dict[str, str]:
        """The fields of a caller's meters."""
        stored = self._get(f"isthmus:{{limits:{tenant}}}:used:{caller}".encode(), Hash)
        return {name.decode(): value.decode() for name, value in stored.items()}


class ClockedMeters(Meters):
    """Meters as one gateway has them, over a keyspace that it may share with others."""

    def __init__(self, database: Clocked) -> None:
        super().__init__(cast("Acknowledger", _Runner(database)), LEASE_MS)


class _Runner:
    def __init__(self, database: Clocked) -> None:
        self._database = database

    async def shared(self, script: Any, keys: Sequence[str], args: Sequence[str | int] = ()) -> Any:
        source = (keeper._SCRIPTS / f"{script.name}.lua").read_text()
        as_bytes = [str(each).encode() for each in args]
        answer = scripts().run(source, [key.encode() for key in keys], as_bytes, self._database.execute)
        # Each write sets its own end.
        assert self._database.values.keys() <= self._database.ends_us.keys()
        return answer


def tenant(
    requests: int | None = None,
    tokens: int | None = None,
    turns: int | None = None,
    budget: int | None = None,
    *,
    kind: Kind = Kind.TENANT,
    name: str = "acme",
) -> Caller:
    """A caller with these limits."""
    limits = CallerLimits(
        requests_per_minute=requests, tokens_per_minute=tokens, turns_concurrent=turns, budget_monthly_micros=budget
    )
    return Caller(kind, name, limits)
