"""One shard: the store's real services on a link of the simulated Valkey, with calls as the gateway's arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final, cast
from zlib import crc32

from google.protobuf import empty_pb2
from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2
from redis.exceptions import ConnectionError as ValkeyConnectionError

from context_store.hot.loading import Loader
from context_store.hot.ownership import Ownership
from context_store.hot.sessions import Sessions
from context_store.log.bodies import Bodies
from context_store.log.keys import Keys
from context_store.log.log import Log
from context_store.service import ContextService
from context_store.session.deletion import Deletions
from context_store.session.quotas import Usage
from context_store.store import Store
from context_store.tiering.janitor import Janitor
from context_store.tiering.spill import Spill, filled
from context_store.tiering.tiers import Tiers
from context_store.window.events import SegmentEvents
from services.config import QuotaSettings, StoreSettings, TieringSettings, ValkeySettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import Member
from services.router import Circles
from services.rpc import redirects
from services.valkey import Acknowledger, Client
from tests.simulation.bucket import Bucket
from tests.simulation.link import Link
from tests.simulation.trace import Trace

# Small bounds, so that short runs have many fragments, segments, pages and epochs.
SETTINGS: Final = StoreSettings(
    fragment_bytes_max=64,
    segment_tokens=64,
    log_page_count_max=5,
    lease_ms_min=50,
    document_batch_bytes_max=128,
)

TIERING: Final = TieringSettings(freeze_ms_max=400, index_buckets_count=1, idle_ms=20)
_CLEANING: Final = TIERING.model_copy(update={"idle_ms": 0})

# Errors that say of our own code or data that they are wrong.
_BROKEN: Final = (errors_pb2.ERROR_REASON_INTERNAL, errors_pb2.ERROR_REASON_CORRUPT)


class Ring:
    """Which shard owns which session, as one shard believes: views with different numbers differ."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.view = 0

    def owner(self, tenant: str, session: str) -> Member:
        index = crc32(f"{tenant}/{session} {self.view}".encode()) % len(self._names)
        return Member(self._names[index], "context_store", self._names[index])


class Shard:
    """A process of the store, which may die and come back without a memory."""

    def __init__(
        self,
        name: str,
        ring: Ring,
        connect: Callable[[str], Link],
        valkey: ValkeySettings,
        bucket: Bucket,
        trace: Trace,
        violate: Callable[[str], None],
        opened: Callable[[Keys, turn_pb2.Turn, Message], None],
    ) -> None:
        self.name = name
        self.ring = ring
        self._connect = connect
        self._valkey = valkey
        self._bucket = bucket
        self._trace = trace
        self._violate = violate
        self._opened = opened
        self._tasks: set[asyncio.Task[Message | IsthmusError]] = set()
        self.is_up = False
        self.start()

    def start(self) -> None:
        """An empty process with a connection of its own."""
        self.link = self._connect(self.name)
        client = cast(Client, self.link)
        acknowledger = Acknowledger(client, self._valkey)
        tiers = Tiers(client, acknowledger, self._bucket, TIERING)
        log = Log(client, acknowledger, tiers.thawer.thaw, partial(filled, tiers.objects))
        loader = Loader(log, SETTINGS)
        bodies = Bodies(log, SETTINGS.bodies_bytes_max)
        bounds = SETTINGS.hot_sessions_bytes_max, SETTINGS.hot_sessions_newcomer_share
        sessions = Sessions(log, loader, *bounds, on_void=bodies.drop)
        self.store = Store(
            log=log,
            sessions=sessions,
            bodies=bodies,
            events=SegmentEvents(_ignored, SETTINGS),
            settings=SETTINGS,
            member_id=self.name,
            ownership=Ownership(cast(Circles, self.ring), self.name),
            tiers=tiers,
            spill=Spill(log, tiers.book, tiers.objects, TIERING),
            usage=Usage(log, QuotaSettings()),
        )
        self._deletions = Deletions(self.store, _cancelled)
        self._service = ContextService(self.store, self._deletions)
        self._freezer = tiers.freezer(loader.load)
        self._janitor = self._looking_after(tiers)
        self._cleaner = self._looking_after(Tiers(client, acknowledger, self._bucket, _CLEANING))
        self.is_up = True

    def _looking_after(self, tiers: Tiers) -> Janitor:
        """A janitor for every session, as each of several shards is one while their views differ."""
        store = self.store
        return Janitor(tiers, self._freezer, self._deletions, lambda keys: True, store.expire_turn, store.spill)

    def crash(self) -> None:
        """Ends it as SIGKILL does: nothing that was under way here goes on, whatever has left for Valkey arrives."""
        self._trace.note("fault", "crash", self.name)
        self.is_up = False
        self.link.is_dead = True
        for task in self._tasks:
            task.cancel()

    def serve(
        self, method: str, request: Message | Sequence[Message], *, is_redirected: bool
    ) -> asyncio.Task[Message | IsthmusError]:
        """Starts to serve a call; the task gives the answer or the error that the caller is told."""
        task = asyncio.get_running_loop().create_task(self._serve(method, request, is_redirected))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(
        self, method: str, request: Message | Sequence[Message], is_redirected: bool
    ) -> Message | IsthmusError:
        redirects.enter(redirects.METADATA if is_redirected else ())
        try:
            answer = await self._run(method, request)
        except IsthmusError as error:
            if error.reason in _BROKEN:
                self._violate(f"{self.name} {method}: {error}")
            return error
        except ValkeyConnectionError as error:
            return UpstreamUnavailable(f"Valkey cannot be reached: {error}")
        except Exception as error:
            # A crash of ours is a finding, whatever it is.
            self._violate(f"{self.name} {method}: {error!r}")
            raise
        if isinstance(answer, api.OpenTurnResponse) and answer.HasField("manifest"):
            keyed = cast(api.OpenTurnRequest, request)
            self._opened(Keys(keyed.key.tenant, keyed.key.session), answer.turn, answer.manifest)
        return answer

    async def _run(self, method: str, request: Message | Sequence[Message]) -> Message:
        if method == "Freeze":
            # No rpc: what the janitor does by itself when sessions have been idle.
            return await self.round()
        served: Any = getattr(self._service, method)
        if method == "ReadWindow":
            # As one message, for the way here carries no streams.
            pages = [page async for page in served(request, None)]
            return window_pb2.Manifest(new_items=[item for page in pages for item in page.items])
        if isinstance(request, Message):
            return cast(Message, await served(request, None))
        return cast(Message, await served(_each(request), None))

    async def round(self) -> Message:
        """The janitor looks once at all that is due or idle."""
        await self._janitor.round()
        return empty_pb2.Empty()

    async def cleaned(self) -> None:
        """The janitor looks once at all that is due, and freezes nothing."""
        await self._cleaner.round()


async def _each(requests: Sequence[Message]) -> AsyncIterator[Message]:
    for request in requests:
        yield request


async def _cancelled(tenant: str, session: str, segments: Sequence[tuple[int, int]]) -> None:
    """Nobody works on segments here."""


async def _ignored(tenant: str, session: str, first: int, last: int) -> None:
    """Nobody waits for segments here."""
