"""What documents sessions have, read whole, and kept as long as their session is in the same state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from context_store.log.document_reads import DocumentReads
from context_store.log.keys import Keys
from context_store.log.stored_documents import StoredDocument


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A session's documents by the time at which they were begun, as of `version` or later."""

    version: bytes
    documents: Sequence[StoredDocument]


class Catalogues:
    """The catalogues that were read last, with at most `count_max` documents in all."""

    def __init__(self, log: DocumentReads, count_max: int) -> None:
        self._log = log
        self._count_max = count_max
        self._kept: OrderedDict[Keys, Catalogue] = OrderedDict()
        self._count = 0

    async def read(self, keys: Keys) -> Catalogue:
        """The session's documents now; NotFound if there is no session."""
        # Read first: what is read after it is never older than it says.
        version = await self._log.version(keys)
        kept = self._kept.get(keys)
        if kept and kept.version == version:
            self._kept.move_to_end(keys)
            return kept
        found = [one for one in await self._log.documents(keys) if not one.is_gone]
        found.sort(key=lambda one: (one.document.create_time.ToNanoseconds(), one.id))
        catalogue = Catalogue(version, found)
        self._keep(keys, catalogue)
        return catalogue

    def forget(self, keys: Keys) -> int:
        """Lets go of a session that is erased; about the bytes that it took."""
        kept = self._kept.pop(keys, None)
        if kept is None:
            return 0
        self._count -= len(kept.documents)
        return sum(one.document.ByteSize() for one in kept.documents)

    def _keep(self, keys: Keys, catalogue: Catalogue) -> None:
        self.forget(keys)
        self._kept[keys] = catalogue
        self._count += len(catalogue.documents)
        while self._count > self._count_max and self._kept:
            self.forget(next(iter(self._kept)))
