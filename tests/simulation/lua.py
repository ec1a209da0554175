"""The store's own Lua scripts, run by Lua 5.1 as Valkey runs them: RESP types in, RESP types out, no globals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from lupa.lua51 import LuaRuntime, lua_type  # type: ignore[import-untyped]
from redis.exceptions import ResponseError

from tests.simulation.database import Reply, Status

Call = Callable[[list[bytes]], Reply]

_PRELUDE: Final = b"""
local call = ...
redis = {call = call}
function redis.error_reply(message) return {err = message} end
function redis.status_reply(message) return {ok = message} end
setmetatable(_G, {__newindex = function(_, name) error('a script makes a global ' .. name) end})
"""


class Scripts:
    """One interpreter. A script that raises leaves behind what it has written, as in Valkey."""

    def __init__(self) -> None:
        self._runtime: Any = LuaRuntime(
            encoding=None, unpack_returned_tuples=False, register_eval=False, register_builtins=False
        )
        self._call: Call | None = None
        self._runtime.execute(_PRELUDE, self._called)
        self._compiled: dict[str, Any] = {}

    def run(self, source: str, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Reply:
        """Runs a script whose `redis.call` is `call`."""
        function = self._compiled.get(source)
        if function is None:
            # A shebang is Valkey's, not Lua's.
            body = source.partition("\n")[2] if source.startswith("#!") else source
            function = self._runtime.execute(b"return function(KEYS, ARGV) " + body.encode() + b"\nend")
            self._compiled[source] = function
        self._call = call
        try:
            return _reply(function(self._runtime.table_from(keys), self._runtime.table_from(args)))
        finally:
            self._call = None

    def _called(self, *parts: bytes | float) -> Any:
        assert self._call, "redis.call outside of a script"
        return self._lua(self._call([_argument(part) for part in parts]))

    def _lua(self, reply: Reply) -> Any:
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._runtime.table_from({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._runtime.table_from([self._lua(one) for one in reply])
        return reply


@lru_cache(maxsize=1)
def scripts() -> Scripts:
    """The process's own: scripts are compiled once for all runs."""
    return Scripts()


def _argument(part: object) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, int | float) and not isinstance(part, bool):
        return b"%.17g" % part
    raise ResponseError("ERR Lua redis lib command arguments must be strings or integers")


def _reply(value: Any) -> Reply:
    """What Lua returned in RESP: a nil ends a list, a number loses its fraction."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | float):
        return int(value)
    assert lua_type(value) == "table"
    if value[b"err"] is not None:
        raise ResponseError(value[b"err"].decode())
    if value[b"ok"] is not None:
        return bytes(value[b"ok"])
    replies: list[Reply] = []
    while (one := value[len(replies) + 1]) is not None:
        replies.append(_reply(one))
    return replies
