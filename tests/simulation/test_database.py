"""The simulated Valkey answers as the real one does, whatever it is asked, script or command."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError

from tests.simulation.database import Database, Reply
from tests.simulation.lua import scripts
from tests.support.valkey_server import ValkeyServer

_KEYS: Final = st.sampled_from([b"h", b"s", b"z", b"x"])
_PARTS: Final = st.sampled_from([b"a", b"b", b"1", b"2"])
_IDS: Final = st.sampled_from([b"1-0", b"2-0", b"3-0", b"7-0"])

_COMMANDS: Final = st.one_of(
    st.tuples(st.sampled_from([b"HSET"]), _KEYS, _PARTS, _PARTS),
    st.tuples(
        st.sampled_from([b"HGET", b"HDEL", b"HEXISTS", b"SADD", b"SREM", b"SISMEMBER", b"ZREM", b"ZSCORE"]),
        _KEYS,
        _PARTS,
    ),
    st.tuples(st.sampled_from([b"HMGET"]), _KEYS, _PARTS, _PARTS),
    st.tuples(
        st.sampled_from([b"HINCRBY", b"ZADD"]), _KEYS, st.sampled_from([b"1", b"2"]), st.sampled_from([b"1", b"2"])
    ),
    st.tuples(st.sampled_from([b"HLEN", b"SCARD", b"ZCARD", b"XLEN", b"TYPE", b"EXISTS", b"DEL", b"UNLINK"]), _KEYS),
    st.tuples(st.sampled_from([b"XADD"]), _KEYS, _IDS, _PARTS, _PARTS),
    st.tuples(st.sampled_from([b"XDEL"]), _KEYS, _IDS),
    st.tuples(
        st.sampled_from([b"XRANGE"]), _KEYS, st.sampled_from([b"-", b"2-0", b"(2-0"]), st.sampled_from([b"+", b"3-0"])
    ),
    st.tuples(st.sampled_from([b"XREVRANGE"]), _KEYS, st.just(b"+"), st.just(b"-"), st.just(b"COUNT"), st.just(b"1")),
    st.tuples(st.just(b"ZRANGE"), _KEYS, st.sampled_from([b"-", b"(1"]), st.just(b"+"), st.just(b"BYLEX")),
)

# What Lua makes of an answer, and RESP of that.
_CALL: Final = "return redis.call(unpack(ARGV))"
_SHAPES: Final = (
    "return {redis.call('HMGET', KEYS[1], 'a', 'none'), 1.9, false, 'x', {1, nil, 2}, redis.call('TIME')[3] or ''}"
)


def _answer(call: Any) -> object:
    try:
        return call()
    except ResponseError as error:
        return str(error).partition(" ")[0].removeprefix("ERR") or "ERR"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=st.lists(_COMMANDS, max_size=25))
def test_commands_answer_alike(valkey_server: ValkeyServer, commands: list[tuple[bytes, ...]]) -> None:
    ours = Database(lambda: 0)
    with Redis.from_url(valkey_server.url) as real:
        real.flushall()
        for parts in commands:
            before = ours.changes, _changes(real)
            theirs = _answer(lambda parts=parts: real.eval(_CALL, 0, *parts))
            mine = _answer(lambda parts=parts: scripts().run(_CALL, [], parts, ours.execute))
            assert (isinstance(mine, str), mine if not isinstance(mine, str) else "") == (
                isinstance(theirs, str),
                theirs if not isinstance(theirs, str) else "",
            ), parts
            assert (ours.changes > before[0]) == (_changes(real) > before[1]), parts
        assert _contents(ours) == {key for key in (b"h", b"s", b"z", b"x") if real.exists(key)}


def _changes(real: Redis) -> int:
    """What Valkey counts as changed: no command that does not raise it is replicated, and waited for."""
    return int(real.info("persistence")["rdb_changes_since_last_save"])


def _contents(database: Database) -> set[bytes]:
    return set(database.values)


def test_replies_take_the_same_shape(valkey_server: ValkeyServer) -> None:
    ours = Database(lambda: 0)
    ours.execute([b"HSET", b"h", b"a", b"1"])
    with Redis.from_url(valkey_server.url) as real:
        real.hset("h", "a", "1")
        mine: Reply = scripts().run(_SHAPES, [b"h"], [], ours.execute)
        assert mine == real.eval(_SHAPES, 1, "h")


def test_a_script_makes_no_globals() -> None:
    with pytest.raises(Exception, match="makes a global x"):
        scripts().run("x = 1", [], [], Database(lambda: 0).execute)
