"""Every write to Valkey that this room makes: one method a script, with types. Nothing is decided here."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from isthmus.session.v1 import document_pb2, session_pb2, turn_pb2

from context_store.epoch import Base
from context_store.keys import Keys, tenant_index
from context_store.log_reads import LogReads
from context_store.stored import (
    Entry,
    Meter,
    NewTurn,
    Reply,
    base_arguments,
    count_arguments,
    entry_arguments,
    summary_arguments,
)
from context_store.summaries import SummaryRef
from services.errors import NotFound
from services.valkey import Argument

_VERSION_BYTES: Final = 8


class Log(LogReads):
    """The sessions in Valkey. What a script's outcomes are is written at its head."""

    async def _change(
        self, name: str, keys: Keys, key_names: Sequence[str], args: Sequence[Argument], meter: Meter | None = None
    ) -> Reply:
        # Random, so that no version ever comes twice, even if Valkey lost its last moments.
        version = secrets.token_bytes(_VERSION_BYTES)
        return _reply(keys, await self._run(name, key_names, [version, *args], meter))

    async def create_session(self, keys: Keys, own: session_pb2.Session) -> Reply:
        # The index first: a crash in between leaves a name that lists skip, never a session that no list shows.
        await self._command("ZADD", tenant_index(keys.tenant), 0, keys.session)
        return await self._change("create_session", keys, [keys.meta], [own.SerializeToString(), own.etag])

    async def update_session(self, keys: Keys, etag_read: str, own: session_pb2.Session) -> Reply:
        args: list[Argument] = [etag_read, own.etag, own.SerializeToString()]
        return await self._change("update_session", keys, [keys.meta], args)

    async def delete_session(self, keys: Keys, etag: str) -> Reply:
        reply = _reply(keys, await self._run("delete_session", keys.all(), [etag]))
        if reply.outcome == "DELETED":
            await self._command("ZREM", tenant_index(keys.tenant), keys.session)
        return reply

    async def open_turn(self, keys: Keys, new: NewTurn, meter: Meter) -> Reply:
        args: list[Argument] = [new.version, new.request_id, new.digest, new.driver, new.lease_ms]
        args += ["" if new.after_turn is None else new.after_turn, new.turn.number, new.turn.SerializeToString()]
        args += [*base_arguments(new.base), "0" if new.is_probe else "1", *entry_arguments(new.entries)]
        return await self._change("open_turn", keys, [keys.meta, keys.log, keys.turns, keys.requests], args, meter)

    async def commit_turn(
        self,
        keys: Keys,
        version: bytes,
        turn: turn_pb2.Turn,
        tokenizer: bytes,
        counts: Iterable[tuple[int, int]],
        entries: Iterable[Entry],
        meter: Meter,
    ) -> Reply:
        pairs = count_arguments(tokenizer, counts)
        args: list[Argument] = [version, turn.number, turn.attempt, turn.SerializeToString(), turn.last_input_sequence]
        args += [tokenizer, len(pairs) // 2, *pairs, *entry_arguments(entries)]
        names = [keys.meta, keys.log, keys.turns, keys.requests, keys.counts]
        return await self._change("commit_turn", keys, names, args, meter)

    async def close_turn(
        self, keys: Keys, turn: turn_pb2.Turn, letter: bytes, attempt: int, is_lapsed_only: bool = False
    ) -> Reply:
        """`attempt` 0 closes any."""
        args: list[Argument] = [turn.number, attempt, letter, turn.SerializeToString(), "1" if is_lapsed_only else "0"]
        return await self._change("close_turn", keys, [keys.meta, keys.turns, keys.requests, keys.void], args)

    async def renew_turn(self, keys: Keys, turn: int, attempt: int, lease_ms: int) -> Reply:
        return _reply(keys, await self._run("renew_turn", [keys.meta, keys.turns], [turn, attempt, lease_ms]))

    async def replan_turn(
        self,
        keys: Keys,
        version: bytes,
        turn: turn_pb2.Turn,
        tokenizer: bytes,
        scale: float,
        base: Base | None,
        counts: Iterable[tuple[int, int]],
        meter: Meter,
    ) -> Reply:
        """`base` is set where a new epoch begins; an empty tokenizer keeps the session's."""
        args: list[Argument] = [version, turn.number, turn.attempt, tokenizer, repr(scale)]
        args += [*base_arguments(base), *count_arguments(tokenizer, counts)]
        return await self._change("replan_turn", keys, [keys.meta, keys.turns, keys.counts], args, meter)

    async def append_messages(self, keys: Keys, request_id: str, digest: bytes, entries: Iterable[Entry]) -> Reply:
        args: list[Argument] = [request_id, digest, *entry_arguments(entries)]
        return await self._change("append_messages", keys, [keys.meta, keys.log, keys.requests], args)

    async def append_document(
        self,
        keys: Keys,
        document_id: str,
        committed_before: int,
        mark: str,
        document: document_pb2.Document,
        entries: Iterable[Entry],
    ) -> Reply:
        args: list[Argument] = [document_id, committed_before, mark, document.committed_bytes]
        args += [document.SerializeToString(), *entry_arguments(entries)]
        return await self._change("append_document", keys, [keys.meta, keys.log, keys.documents], args)

    async def erase_fragment(
        self, keys: Keys, version: bytes, sequence: int, size: int, base: Base | None, summaries: Iterable[str]
    ) -> Reply:
        """`base` is set where a new epoch begins; `summaries` are the names of those that cover the fragment."""
        names = [keys.meta, keys.log, keys.void, keys.counts, keys.summaries, keys.summary_bodies]
        args: list[Argument] = [version, sequence, size, *base_arguments(base), *summaries]
        return await self._change("erase_fragment", keys, names, args)

    async def commit_summary(
        self,
        keys: Keys,
        version: bytes,
        summary: SummaryRef,
        body: bytes,
        tokenizer: bytes,
        counts: Iterable[tuple[int, int]],
    ) -> Reply:
        names = [keys.meta, keys.counts, keys.summaries, keys.summary_bodies]
        args: list[Argument] = [version, *summary_arguments(summary), body, *count_arguments(tokenizer, counts)]
        return await self._change("commit_summary", keys, names, args)


def _reply(keys: Keys, answer: list[Any]) -> Reply:
    outcome, *values = answer
    if outcome == b"MISSING":
        raise NotFound(f"sessions/{keys.session}")
    return Reply(outcome.decode(), values)
