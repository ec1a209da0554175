"""What is read of a session's documents. Those of a past that a fork shares are its own as long as it shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from isthmus.session.v1 import document_pb2

from context_store.log.keys import Keys
from context_store.log.links import Link, ancestor
from context_store.log.reads import LogReads, pairs_of
from context_store.log.stored_documents import (
    StoredDocument,
    fields_of,
    stored_document,
    vectors_name,
    with_parts,
)


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session at a moment: `void_at` changes when something in it is erased."""

    version: bytes
    incarnation: bytes
    void_at: bytes


# Vectors in one read: each has 256 KiB at most.
_VECTORS_COUNT: int = 16


class DocumentReads(LogReads):
    """Reads of documents. They raise what those of the log do."""

    async def session_state(self, keys: Keys) -> SessionState:
        """Which state the session is in, and what its indexes rest on."""
        version, incarnation, void_at = await self._fields(keys, "version", "incarnation", "void_at")
        return SessionState(version, incarnation, void_at)

    async def documents(self, keys: Keys) -> list[StoredDocument]:
        """All of the session's documents, in no order, also such as are being deleted."""
        links, _ = await self._hash(keys, keys.documents, ["-"])
        own = await self._parts(keys, b"")
        found = [one for parts in own.values() if (one := stored_document(parts))]
        shared = {one for one in await self._inherited_ids(keys, links) if "" not in own.get(one, {})}
        inherited = [await self.stored_document(keys, one) for one in shared]
        return [*found, *(one for one in inherited if one)]

    async def _parts(self, keys: Keys, incarnation: bytes) -> dict[str, dict[str, bytes]]:
        """Fields of documents by their ids."""
        found: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        async for page in self._scan("HSCAN", keys, keys.documents, incarnation):
            for name, value in pairs_of(page):
                document_id, colon, part = name.decode().partition(":")
                found[document_id][colon + part] = value
        return found

    async def _inherited_ids(self, keys: Keys, links: Sequence[Link]) -> set[str]:
        return {one for link in links for one in await self._parts(ancestor(keys, link), link.incarnation)}

    async def document_ids(self, keys: Keys) -> list[str]:
        """The ids of the session's documents."""
        return sorted(one.id for one in await self.documents(keys) if not one.is_gone)

    async def document(self, keys: Keys, document_id: str) -> document_pb2.Document | None:
        """The document as far as it is committed; one of the shared past only if it was complete by then."""
        stored = await self.stored_document(keys, document_id)
        return stored.document if stored and not stored.is_gone else None

    async def stored_document(self, keys: Keys, document_id: str) -> StoredDocument | None:
        """The same with what is stored of it, also while it is being deleted."""
        links, values = await self._hash(keys, keys.documents, fields_of(document_id))
        own = dict(zip(fields_of(""), values, strict=True))
        if (stored := stored_document(own)) or own[":gone"] == b"deleted":
            return stored
        for link in reversed(links):
            origin = ancestor(keys, link)
            _, values = await self._hash(origin, origin.documents, fields_of(document_id), incarnation=link.incarnation)
            shared = stored_document(dict(zip(fields_of(""), values, strict=True)))
            if shared and shared.is_complete and not shared.is_gone and shared.document.last_sequence <= link.last:
                shared.document.name = f"sessions/{keys.session}/documents/{document_id}"
                gone = own[":gone"] is not None
                own_part = own[":own"] or b""
                return with_parts(replace(shared, place=b"", own=own_part, is_gone=gone, is_inherited=True))
        return None

    async def vectors(self, keys: Keys, document_id: str, batches: Sequence[int]) -> list[bytes | None]:
        """Vectors of a document's passages, those that begin at each of these."""
        found: list[bytes | None] = []
        for first in range(0, len(batches), _VECTORS_COUNT):
            names = [vectors_name(document_id, one) for one in batches[first : first + _VECTORS_COUNT]]
            found += (await self._hash(keys, keys.vectors, names))[1]
        return found
