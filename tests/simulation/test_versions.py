"""A version is of one run of one script: what a failover has undone and a client sends again makes another one."""

from __future__ import annotations

from typing import Final

from context_store.log.stored import descends
from tests.simulation.database import Database
from tests.simulation.lua import scripts
from tests.simulation.mutants import SCRIPTS

_KEYS: Final = [b"meta", b"log", b"requests"]
_MARK: Final = b"12345678"


class _Node:
    """A Valkey whose clock goes on by a microsecond a script."""

    def __init__(self) -> None:
        self._now_us = 0
        self.database = Database(lambda: self._now_us)

    def run(self, name: str, keys: list[bytes], *args: bytes) -> bytes:
        """The version that a script makes."""
        self._now_us += 1
        source = (SCRIPTS / f"{name}.lua").read_text(encoding="utf-8")
        reply = scripts().run(source, keys, args, self.database.execute)
        assert isinstance(reply, list)
        assert isinstance(reply[1], bytes), reply
        return reply[1]


def test_a_change_that_is_made_again_after_a_failover_is_another_one() -> None:
    primary, replica = _Node(), _Node()
    created = primary.run("create_session", _KEYS[:1], _MARK, b"", b"")
    replica.run("create_session", [b"other"], _MARK, b"", b"")
    replica.database.copy_of(primary.database)
    append = (_MARK, b"request", bytes(16), b"header", b"body", b"4")

    lost = primary.run("append_messages", _KEYS, *append)
    replica.run("append_messages", _KEYS, b"another.", b"first", *append[2:])
    again = replica.run("append_messages", _KEYS, *append)

    assert descends(lost, created)
    assert descends(again, created)
    assert not descends(again, lost)
