"""Every write to Valkey that this room makes: one method a script, with types. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from isthmus.context.v1.context_service_pb2 import TurnLease
from isthmus.session.v1 import session_pb2, turn_pb2

from context_store.log.changing import new_mark, reply_of
from context_store.log.document_writes import DocumentWrites
from context_store.log.keys import Keys, tenant_index, usage
from context_store.log.links import Link, pack_links
from context_store.log.stored import (
    Entry,
    ImportPage,
    Meter,
    NewTurn,
    Reply,
    base_arguments,
    count_arguments,
    entry_arguments,
    summary_arguments,
)
from context_store.session.shown import ttl_ms
from context_store.window.epoch import Base
from context_store.window.summaries import SummaryRef
from services.collections import collection_of
from services.valkey import Argument


class Log(DocumentWrites):
    """The sessions in Valkey. What a script's outcomes are is written at its head.

    A change answers once it is where an acknowledgement needs it, `disk` says whether that is a disk. It raises
    NOT_REPLICATED where it is written and no more: the same change again finds it.
    """

    async def enter_tenant(self, keys: Keys, sessions_max: int) -> Reply:
        """Makes lists look for the session; FULL where its collection has `sessions_max` (0: no bound) others."""
        args: list[Argument] = [keys.session, sessions_max]
        answer, ack = await self._run_acknowledged("enter_tenant", keys, [_index_of(keys)], args)
        return reply_of(keys, answer, ack)

    async def leave_tenant(self, keys: Keys) -> int:
        """Takes the session from lists and sums; how many entries it had there."""
        listed = int(await self._command("ZREM", _index_of(keys), keys.session))
        counted = await self._run("leave_usage", keys, [usage(keys.tenant)], [keys.session])
        return listed + int(counted[0])

    async def set_usage(self, tenant: str, held: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Notes (bytes, tokens) of sessions by their ids; those of the whole tenant."""
        args: list[Argument] = [part for session, sums in held.items() for part in (session, *sums)]
        text_bytes, tokens = await self._run("set_usage", Keys(tenant, ""), [usage(tenant)], args)
        return int(text_bytes or 0), int(tokens or 0)

    async def create_session(
        self,
        keys: Keys,
        own: session_pb2.Session,
        mark: bytes,
        fields: Mapping[str, Argument] = MappingProxyType({}),
        *,
        disk: bool = False,
    ) -> Reply:
        """`mark` is the session's incarnation, `fields` of meta are other than those of an empty session.

        The tenant's index comes first: a crash in between leaves a name that lists skip, never a session that no list
        shows.
        """
        args: list[Argument] = [mark, own.SerializeToString(), own.etag]
        args += [part for pair in fields.items() for part in pair]
        args += ["ttl_ms", ttl_ms(own)] if own.HasField("ttl") else []
        answer, ack = await self._run_acknowledged("create_session", keys, [keys.meta], args, disk=disk)
        return reply_of(keys, answer, ack)

    async def update_session(self, keys: Keys, etag_read: str, own: session_pb2.Session) -> Reply:
        args: list[Argument] = [etag_read, own.etag, own.SerializeToString(), ttl_ms(own)]
        return await self._change("update_session", keys, [keys.meta], args)

    async def hide_session(self, keys: Keys, incarnation: bytes, etag: str, touched_ms: int | None) -> Reply:
        """From here on nobody sees the session. An empty incarnation takes any."""
        touched: Argument = "" if touched_ms is None else touched_ms
        return await self._change("hide_session", keys, [keys.meta], [incarnation, etag, touched])

    async def erase_session(self, keys: Keys, incarnation: bytes) -> Reply:
        """Erases all keys of a hidden session; what there was in each, in the order of `keys.all()`."""
        answer, ack = await self._run_acknowledged("erase_session", keys, keys.all(), [incarnation])
        return reply_of(keys, answer, ack)

    async def begin_import(self, keys: Keys, own: session_pb2.Session, mark: bytes, idle_ms: int) -> Reply:
        """Begins a session that nobody sees before `end_import`; it dies after so long without a page."""
        args: list[Argument] = [mark, own.SerializeToString(), own.etag, idle_ms]
        return reply_of(keys, await self._run("begin_import", keys, [keys.meta], args))

    async def import_page(self, keys: Keys, mark: bytes, page: ImportPage, idle_ms: int) -> bool:
        """False where the import is not under way any more."""
        names = [keys.meta, keys.log, keys.turns, keys.requests, keys.void, keys.documents]
        answer, _ = await self._run_acknowledged("import_page", keys, names, [mark, idle_ms, *page.arguments()])
        return answer == [b"PUT"]

    async def end_import(
        self,
        keys: Keys,
        mark: bytes,
        own: session_pb2.Session,
        fields: Mapping[str, int],
        *,
        disk: bool = False,
    ) -> Reply:
        """Lets everybody see the session; `fields` of meta are what the pages did not say."""
        args: list[Argument] = [mark, *(part for pair in fields.items() for part in pair)]
        args += ["ttl_ms", ttl_ms(own)] if own.HasField("ttl") else []
        answer, ack = await self._run_acknowledged("end_import", keys, [keys.meta], args, disk=disk)
        return reply_of(keys, answer, ack)

    async def note_fork(self, keys: Keys, incarnation: bytes, version: bytes, fork: str, noted_ms: int) -> Reply:
        """Notes a fork with one whose past it shares; an empty version takes any."""
        args: list[Argument] = [incarnation, version, fork, noted_ms]
        return await self._change("note_fork", keys, [keys.meta, keys.forks], args)

    async def forget_object(self, keys: Keys, name: str) -> None:
        """Notes that a session which is erased has an object no longer."""
        await self._command("SREM", keys.objects, name)

    async def forget_fork(self, keys: Keys, fork: str | bytes) -> int:
        """1 if there was a note of this fork, else 0."""
        return int(await self._command("HDEL", keys.forks, fork))

    async def cut_fork(
        self,
        keys: Keys,
        version: bytes,
        links: Iterable[Link],
        own: session_pb2.Session,
        base: Base,
        summaries: Iterable[str],
    ) -> Reply:
        """Takes a past from a fork; `summaries` are the names of its own that cover it."""
        names = [keys.meta, keys.summaries, keys.summary_bodies]
        args: list[Argument] = [version, pack_links(links), own.SerializeToString(), own.etag, *base_arguments(base)]
        return await self._change("cut_fork", keys, names, [*args, *summaries])

    async def open_turn(self, keys: Keys, new: NewTurn, meter: Meter, *, disk: bool = False) -> Reply:
        args: list[Argument] = [new.version, new.request_id, new.digest, new.driver, new.lease_ms]
        args += ["" if new.after_turn is None else new.after_turn, new.turn.number, new.turn.SerializeToString()]
        args += [*base_arguments(new.base), "0" if new.is_probe else "1"]
        args += ["" if new.resumes is None else new.resumes, *entry_arguments(new.entries)]
        names = [keys.meta, keys.log, keys.turns, keys.requests]
        return await self._change("open_turn", keys, names, args, meter, disk=disk)

    async def commit_turn(
        self,
        keys: Keys,
        version: bytes,
        incarnation: bytes,
        turn: turn_pb2.Turn,
        tokenizer: bytes,
        counts: Iterable[tuple[int, int]],
        entries: Iterable[Entry],
        meter: Meter,
        *,
        disk: bool = False,
    ) -> Reply:
        pairs = count_arguments(tokenizer, counts)
        args: list[Argument] = [version, turn.number, turn.attempt, incarnation, turn.SerializeToString()]
        args += [turn.last_input_sequence, tokenizer, len(pairs) // 2, *pairs, *entry_arguments(entries)]
        names = [keys.meta, keys.log, keys.turns, keys.requests, keys.counts, keys.output]
        return await self._change("commit_turn", keys, names, args, meter, disk=disk)

    async def close_turn(
        self,
        keys: Keys,
        incarnation: bytes,
        turn: turn_pb2.Turn,
        letter: bytes,
        attempt: int,
        is_lapsed_only: bool = False,
    ) -> Reply:
        """`attempt` 0 closes any."""
        args: list[Argument] = [turn.number, attempt, incarnation, letter, turn.SerializeToString()]
        args += ["1" if is_lapsed_only else "0"]
        names = [keys.meta, keys.turns, keys.requests, keys.void, keys.output]
        return await self._change("close_turn", keys, names, args)

    async def take_turn(
        self, keys: Keys, turn: int, incarnation: bytes, driver: str, lease_ms: int, meter: Meter
    ) -> Reply:
        args: list[Argument] = [turn, incarnation, driver, lease_ms]
        return await self._change("take_turn", keys, [keys.meta, keys.turns], args, meter)

    async def append_output(self, keys: Keys, lease: TurnLease, first: int, pieces: Iterable[bytes]) -> Reply:
        """Pieces of the open turn's output from number `first` on."""
        args: list[Argument] = [lease.turn, lease.attempt, lease.incarnation, first, *pieces]
        return await self._change("append_output", keys, [keys.meta, keys.turns, keys.output], args)

    async def renew_turn(self, keys: Keys, lease: TurnLease, lease_ms: int) -> Reply:
        # Not waited for: a renewal that is lost ends the lease earlier, and the attempt's number still fences.
        args: list[Argument] = [lease.turn, lease.attempt, lease.incarnation, lease_ms]
        return reply_of(keys, await self._run("renew_turn", keys, [keys.meta, keys.turns], args))

    async def replan_turn(
        self,
        keys: Keys,
        version: bytes,
        incarnation: bytes,
        turn: turn_pb2.Turn,
        tokenizer: bytes,
        scale: float,
        base: Base | None,
        counts: Iterable[tuple[int, int]],
        meter: Meter,
    ) -> Reply:
        """`base` is set where a new epoch begins; an empty tokenizer keeps the session's."""
        args: list[Argument] = [version, turn.number, turn.attempt, incarnation, tokenizer, repr(scale)]
        args += [*base_arguments(base), *count_arguments(tokenizer, counts)]
        # Not waited for: a plan that is lost is made again.
        names = [keys.meta, keys.turns, keys.counts]
        return reply_of(keys, await self._run("replan_turn", keys, names, [new_mark(), *args], meter))

    async def append_messages(
        self, keys: Keys, request_id: str, digest: bytes, entries: Iterable[Entry], *, disk: bool = False
    ) -> Reply:
        args: list[Argument] = [request_id, digest, *entry_arguments(entries)]
        return await self._change("append_messages", keys, [keys.meta, keys.log, keys.requests], args, disk=disk)

    async def confirm(self, keys: Keys, *, disk: bool = False) -> Reply:
        """Acknowledges what the session is now: for what a caller finds done already."""
        return await self._change("confirm", keys, [keys.meta], [], disk=disk)

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


def _index_of(keys: Keys) -> str:
    return tenant_index(keys.tenant, collection_of(keys.session))
