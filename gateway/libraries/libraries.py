"""Libraries as resources, and what is done with them: one object for both edges."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import deletion_pb2, library_pb2, session_pb2
from prometheus_client import CollectorRegistry

from gateway.backend import Backend
from gateway.background import Background
from gateway.libraries.book import Book, Place
from gateway.libraries.copying import Copying
from gateway.libraries.documents import Documents
from gateway.libraries.files import Files
from gateway.libraries.library_record import LibraryState, changed, library_of, session_of
from gateway.libraries.metrics import CopyMetrics
from gateway.libraries.places import id_of_key, library_session, new_id
from gateway.libraries.searching import Searching
from gateway.libraries.shelves import Shelves
from gateway.limits.admission import Admission
from gateway.shards import Shards
from services.collections import LIBRARY
from services.config import Settings
from services.errors import IsthmusError, NotFound
from services.valkey import Acknowledger, Client

_PAGE_SIZE: Final = 1_000


@dataclass(frozen=True, slots=True)
class LibraryPage:
    """A page of libraries by id."""

    libraries: Sequence[LibraryState]
    next_page_token: str


class Libraries:
    """What the edges ask of libraries and files. Every error is an IsthmusError."""

    def __init__(
        self,
        valkey: Client,
        backend: Backend,
        shards: Shards,
        admission: Admission,
        settings: Settings,
        member_id: str,
        registry: CollectorRegistry,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        own = self._settings = settings.gateway.libraries
        self._backend = backend
        self._random_bytes = random_bytes
        self._clock = clock
        self._stop_s_max = settings.gateway.fail_turn_ms_max / 1000
        self._acknowledger = Acknowledger(valkey, settings.valkey)
        self._book = Book(valkey, self._acknowledger, own)
        self.background = Background()
        self.documents = Documents(shards, settings)
        self.files = Files(backend, self.documents, own)
        metrics = CopyMetrics(registry)
        self.copying = Copying(backend, self.documents, self.files, self._book, settings, member_id, metrics)
        self.shelves = Shelves(backend, self.documents, self._book, self.copying, own)
        self.searching = Searching(backend, self.documents, self._book, admission, own)

    def start(self) -> None:
        """Begins to copy files."""
        self.copying.start()

    async def drain(self) -> None:
        """Takes no new copy and lets those that run end."""
        await self.copying.drain()

    async def stop(self) -> None:
        """Leaves what still runs to the other gateways."""
        await self.background.ended(self._stop_s_max)
        await self.copying.stop()
        await self._acknowledger.aclose()

    async def create(
        self, tenant: str, library_id: str, library: library_pb2.Library, request_id: str = ""
    ) -> LibraryState:
        """A new library, of a chosen id if `library_id` is empty; a request_id then finds what it made before."""
        by_key = bool(request_id) and not library_id
        own_id = library_id or (
            id_of_key(tenant, request_id) if request_id else new_id(self._random_bytes, int(self._clock() * 1000))
        )
        session = session_of(library)
        try:
            made = await self._backend.create_session(tenant, library_session(own_id), session)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
                raise
            if by_key:
                return await self.get(tenant, own_id)
            raise IsthmusError(error.reason, f"libraries/{own_id} exists already; expected another id") from error
        # What an earlier one of this id has left, where it went by itself.
        await self._book.erase(Place(tenant, own_id))
        return self._state(made, own_id)

    async def get(self, tenant: str, library: str) -> LibraryState:
        """A library with its sizes; NOT_FOUND where there is none."""
        with _named(library):
            session = await self._backend.get_session(tenant, library_session(library))
        return self._state(session, library)

    async def page(self, tenant: str, page_size: int, page_token: str) -> LibraryPage:
        """A page of the tenant's libraries by id; a page_size of 0 takes 100."""
        found = await self._backend.list_sessions(
            tenant, page_size=page_size, page_token=page_token, collection=LIBRARY
        )
        now_s = self._clock()
        states = [library_of(session, now_s) for session in found.sessions]
        return LibraryPage([state for state in states if state is not None], found.next_page_token)

    async def all(self, tenant: str) -> list[LibraryState]:
        """The tenant's libraries, of which no more than `libraries_listed_count_max` are read, the oldest first."""
        found: list[LibraryState] = []
        token = ""
        while True:
            page = await self.page(tenant, _PAGE_SIZE, token)
            found += page.libraries
            token = page.next_page_token
            if not token:
                return sorted(found, key=lambda each: (each.library.create_time.ToNanoseconds(), each.library.name))
            if len(found) >= self._settings.libraries_listed_count_max:
                message = f"there are over {len(found)} libraries (gateway.libraries.libraries_listed_count_max)"
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_OVERLOADED, f"{message}; list them by gRPC, which has them by id"
                )

    async def update(
        self, tenant: str, library: str, wanted: library_pb2.Library, paths: Sequence[str]
    ) -> LibraryState:
        """Changes the fields in `paths`, or all that are set; ETAG_MISMATCH if an etag is set and stale."""
        place = Place(tenant, library)
        with _named(library):
            session = await self._backend.get_session(tenant, library_session(library))
            self._state(session, library)
            if wanted.etag and wanted.etag != session.etag:
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_ETAG_MISMATCH, f"libraries/{library} has changed; read it again"
                )
            after = changed(session, wanted, paths, self._clock())
            updated = await self._backend.update_session(
                tenant, library_session(library), after, ("display_name", "labels", "ttl")
            )
        state = self._state(updated, library)
        await self._book.keep(place, self.kept_ms(state))
        return state

    async def delete(self, tenant: str, library: str, *, etag: str = "") -> deletion_pb2.DeletionReceipt:
        """Erases the library with all that is in it."""
        with _named(library):
            receipt = await self._backend.delete_session(tenant, library_session(library), etag=etag)
        await self._book.erase(Place(tenant, library))
        receipt.name = f"libraries/{library}"
        return receipt

    async def delete_file(self, tenant: str, file: str) -> None:
        """Erases a file, and takes it out of the libraries that it is in."""
        await self.files.get(tenant, file)
        for state in await self.all(tenant):
            place = Place(tenant, state.library.name.removeprefix("libraries/"))
            if await self._book.find(place, file) is not None:
                await self.shelves.detach(place, file)
        await self.files.delete(tenant, file)

    def kept_ms(self, state: LibraryState) -> int:
        """How long the book of a library's files is kept, 0 for as long as the library is."""
        if not state.expire_s:
            return 0
        return max(0, state.expire_s - int(self._clock())) * 1000 + self._settings.records_kept_ms

    def _state(self, session: session_pb2.Session, library: str) -> LibraryState:
        state = library_of(session, self._clock())
        if state is None:
            raise NotFound(f"libraries/{library}")
        return state


@contextmanager
def _named(library: str) -> Iterator[None]:
    """Within, what is not found is told as the library that the caller named."""
    try:
        yield
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
            raise
        raise NotFound(f"libraries/{library}") from error
