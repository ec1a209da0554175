"""The parts of a shard that know of objects, as they stand on one another."""

from __future__ import annotations

from isthmus.session.v1 import session_pb2

from context_store.log.keys import Keys
from context_store.session.shown import ttl_ms
from context_store.tiering.cold_log import ColdLog
from context_store.tiering.freezing import Freezer, Load
from context_store.tiering.indexes import Indexes
from context_store.tiering.memory_watch import MemoryWatch
from context_store.tiering.object_book import ObjectBook
from context_store.tiering.objects import Objects
from context_store.tiering.thawing import Thawer
from context_store.tiering.touches import Touches
from services.config import TieringSettings
from services.valkey import Acknowledger, Client


class Tiers:
    """What the log below and the store above need of them. Stands on Valkey and the bucket alone."""

    def __init__(self, client: Client, acknowledger: Acknowledger, objects: Objects, settings: TieringSettings) -> None:
        self.settings = settings
        self.objects = objects
        self.log = ColdLog(client, acknowledger)
        self.indexes = Indexes(client, acknowledger, settings.index_buckets_count)
        self.book = ObjectBook(self.log, self.indexes, objects, settings)
        self.thawer = Thawer(self.log, self.book, self.indexes, objects, settings)
        self.touches = Touches(self.indexes, settings)
        self.memory = MemoryWatch(client, settings)

    async def enter(self, keys: Keys, own: session_pb2.Session) -> None:
        """Puts a session that is about to be made into the indexes that the janitor walks: before it is there."""
        await self.indexes.touch([keys])
        await self.note_ttl(keys, own)

    async def note_ttl(self, keys: Keys, own: session_pb2.Session) -> None:
        """Has the janitor look at a session when it expires, before the session is told so."""
        if own.HasField("ttl"):
            await self.indexes.note_due(keys, keys.member, ttl_ms(own))

    def freezer(self, load: Load) -> Freezer:
        """The way out of Valkey; `load` reads a session as shards show it, for its sums."""
        return Freezer(self.log, self.book, self.objects, load, self.settings)
