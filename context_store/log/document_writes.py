"""Every write of a session's documents and of the log's fragments that goes with them: one method a script."""

from __future__ import annotations

from collections.abc import Iterable

from isthmus.session.v1 import document_pb2

from context_store.log.changing import Changing
from context_store.log.keys import Keys
from context_store.log.stored import Entry, Reply, base_arguments, entry_arguments
from context_store.log.stored_documents import StoredDocument, VectorState, vectors_name
from context_store.window.epoch import Base
from services.valkey import Argument


class DocumentWrites(Changing):
    """Changes of documents. STALE of those that rest on what was read of one means that it is another by now."""

    async def append_document(
        self,
        keys: Keys,
        document_id: str,
        committed_before: int,
        mark: str,
        document: document_pb2.Document,
        entries: Iterable[Entry],
        *,
        disk: bool = False,
    ) -> Reply:
        args: list[Argument] = [document_id, committed_before, mark, document.committed_bytes]
        args += [document.SerializeToString(), *entry_arguments(entries)]
        return await self._change("append_document", keys, [keys.meta, keys.log, keys.documents], args, disk=disk)

    async def update_document(self, keys: Keys, stored: StoredDocument, own: document_pb2.Document) -> Reply:
        """Replaces what the document's owner may change."""
        args: list[Argument] = [stored.id, stored.own, stored.place, own.SerializeToString()]
        return await self._change("update_document", keys, [keys.meta, keys.documents], args)

    async def hide_document(self, keys: Keys, stored: StoredDocument) -> Reply:
        """From here on nobody sees the document."""
        return await self._change("hide_document", keys, [keys.meta, keys.documents], [stored.id, stored.place])

    async def drop_document(self, keys: Keys, stored: StoredDocument) -> Reply:
        """Frees the id of a hidden document whose text is erased."""
        state = stored.state
        args: list[Argument] = [stored.id, stored.place, "1" if stored.is_inherited else "0"]
        args += [vectors_name(stored.id, first) for first in (state.batches if state else ())]
        return await self._change("drop_document", keys, [keys.meta, keys.documents, keys.vectors], args)

    async def commit_vectors(
        self, keys: Keys, stored: StoredDocument, state: VectorState, vectors: bytes, *, disk: bool = False
    ) -> Reply:
        """Adds the last of the state's batches, if `vectors` has any; batches that the state has not any more go."""
        args: list[Argument] = [stored.id, stored.place, stored.vectors, state.encode()]
        args += [vectors_name(stored.id, state.batches[-1]), vectors] if vectors else ["", ""]
        before = stored.state
        kept = set(state.batches)
        args += [vectors_name(stored.id, one) for one in (before.batches if before else ()) if one not in kept]
        return await self._change("commit_vectors", keys, [keys.meta, keys.documents, keys.vectors], args, disk=disk)

    async def erase_fragments(
        self,
        keys: Keys,
        version: bytes,
        fragments: Iterable[tuple[int, int]],
        base: Base | None,
        summaries: Iterable[str],
    ) -> Reply:
        """Erases fragments by (sequence, size). `base` is set where a new epoch begins.

        `summaries` are the names of those that cover them.
        """
        names = [keys.meta, keys.log, keys.void, keys.counts, keys.summaries, keys.summary_bodies]
        pairs = [part for fragment in fragments for part in fragment]
        args: list[Argument] = [version, *base_arguments(base), len(pairs) // 2, *pairs, *summaries]
        return await self._change("erase_fragments", keys, names, args)
