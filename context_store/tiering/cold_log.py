"""What freezing and thawing say to Valkey: one method a script, with types. Nothing is decided here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from context_store.log.keys import Keys
from context_store.log.stored import MARK_BYTES, Reply
from context_store.tiering.frozen import Kind, Page
from services.valkey import Acknowledger, Argument, Client, Script, command

_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"
_NAMES: Final = (
    "begin_freeze",
    "note_object",
    "dump_page",
    "freeze",
    "thaw_page",
    "thaw",
    "judge_object",
    "expiry",
)
# How the things in each key that leaves are read and counted.
KINDS: Final[Mapping[str, Kind]] = {
    "log": "stream",
    "turns": "hash",
    "requests": "hash",
    "void": "set",
    "counts": "hash",
    "summaries": "hash",
    "summary_bodies": "hash",
    "documents": "hash",
    "vectors": "hash",
}
_COUNTED_BY: Final[Mapping[Kind, str]] = {"hash": "HLEN", "set": "SCARD", "stream": "XLEN"}
# Values of one thing in a page: what comes together.
WIDTHS: Final[Mapping[Kind, int]] = {"hash": 2, "set": 1, "stream": 4}
# Fields of meta that an object has and lists, updates and fences do without.
LEAVING_FIELDS: Final = (
    "window",
    "tokenizer",
    "scale",
    "void_at",
    "counts_at",
    "summaries_at",
    "done_turn",
    "done_input",
    "revision",
    "turn_count",
    "epoch",
    "open_turn",
    "open_attempt",
    "open_driver",
    "open_request",
    "lease_until_ms",
)


@dataclass(frozen=True, slots=True)
class Ready:
    """A session that may become an object: `version` is what the object will be of, `now_ms` Valkey's clock."""

    version: bytes
    incarnation: bytes
    now_ms: int
    counts: dict[str, int]
    # Fields and values of meta that an object has.
    fields: list[bytes]


class ColdLog:
    """Scripts of the tiers. They raise redis' errors when Valkey is away, those that write NOT_REPLICATED, too."""

    def __init__(self, client: Client, acknowledger: Acknowledger) -> None:
        self._client = client
        self._acknowledger = acknowledger
        self._scripts = {name: Script(_SCRIPTS / f"{name}.lua") for name in _NAMES}

    async def _read(self, name: str, keys: Sequence[Argument], args: Sequence[Argument]) -> list[Any]:
        answer: list[Any] = await self._acknowledger.shared(self._scripts[name], keys, args)
        return answer

    async def _change(self, name: str, keys: Sequence[Argument], args: Sequence[Argument]) -> Reply:
        mark = secrets.token_bytes(MARK_BYTES)
        answer, ack = await self._acknowledger.run(self._scripts[name], keys, [mark, *args])
        return Reply(answer[0].decode(), list(answer[1:]), ack)

    async def begin_freeze(self, keys: Keys, idle_ms: int) -> Ready | Reply:
        """Ready, or the refusal as begin_freeze.lua says it."""
        leaving = keys.leaving()
        commands = [_COUNTED_BY[KINDS[concept]] for concept in leaving]
        names = [keys.meta, *leaving.values()]
        reply = await self._change("begin_freeze", names, [idle_ms, *commands, *LEAVING_FIELDS])
        if reply.outcome != "READY":
            return reply
        version, incarnation, now_ms, values, *counts = reply.values
        pairs = zip(LEAVING_FIELDS, values, strict=True)
        fields = [part for field, value in pairs if value is not None for part in (field.encode(), value)]
        return Ready(version, incarnation, now_ms, dict(zip(leaving, counts, strict=True)), fields)

    async def note_object(self, keys: Keys, version: bytes, name: str) -> bool:
        """Whether the session is still as it was, and names the object now."""
        reply = await self._change("note_object", [keys.meta, keys.objects], [version, name])
        return reply.outcome == "NOTED"

    async def dump_page(
        self, keys: Keys, concept: str, version: bytes, cursor: bytes, bytes_max: int
    ) -> tuple[bytes, list[bytes]] | None:
        """(cursor of the next page or empty, what the page has); None when the session has changed."""
        name = keys.leaving()[concept]
        answer = await self._read("dump_page", [keys.meta, name], [version, KINDS[concept], cursor, bytes_max])
        return None if answer == [b"STALE"] else (answer[0], answer[1])

    async def freeze(self, keys: Keys, ready: Ready, name: str, idle_ms: int, took_ms_max: int, sums: bytes) -> Reply:
        """Lets the session's keys go for its object, if it is still what the object says."""
        names = [keys.meta, keys.objects, *keys.leaving().values()]
        return await self._change("freeze", names, [ready.version, name, idle_ms, took_ms_max, sums, *LEAVING_FIELDS])

    async def place(self, keys: Keys) -> tuple[bool, str, bytes]:
        """(whether there is a session, its object's name or empty, its incarnation)."""
        version, cold, incarnation = await command(self._client, "HMGET", keys.meta, "version", "cold", "incarnation")
        return version is not None, (cold or b"").decode(), incarnation or b""

    async def thaw_page(self, keys: Keys, name: str, page: Page) -> bool:
        """Writes a page back; False when the session is not this object any more."""
        names = [keys.meta, keys.leaving()[page.key]]
        return await self._read("thaw_page", names, [name, page.kind, *page.flat]) == [b"PUT"]

    async def thaw(self, keys: Keys, name: str, counts: Mapping[str, int], fields: Sequence[bytes]) -> Reply:
        """Makes the session warm again, if its keys hold what the object says."""
        leaving = keys.leaving()
        counted: list[Argument] = []
        for concept in leaving:
            counted += [_COUNTED_BY[KINDS[concept]], counts.get(concept, 0)]
        return await self._change("thaw", [keys.meta, keys.objects, *leaving.values()], [name, *counted, *fields])

    async def judge_object(self, keys: Keys, name: str, age_ms_max: int) -> Reply:
        """Whether an object is the session's, may become one, or is nobody's."""
        return await self._change("judge_object", [keys.meta], [name, age_ms_max])

    async def forget_object(self, keys: Keys, name: str) -> None:
        """Notes that the session has an object no longer."""
        await command(self._client, "SREM", keys.objects, name)

    async def expiry(self, keys: Keys) -> Reply:
        """Whether the session has outlived its ttl."""
        answer = await self._read("expiry", [keys.meta], [])
        return Reply(answer[0].decode(), list(answer[1:]))
