"""Files of a tenant: each a session with one document, uploaded as a stream and whole or not there."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import structlog
from isthmus.session.v1 import document_pb2

from gateway.backend import Backend
from gateway.libraries.documents import Documents
from gateway.libraries.file_record import File, begun, ended, file_of, list_filter
from gateway.libraries.places import FILE_DOCUMENT, file_session, new_id
from services.collections import FILE
from services.config import LibrariesSettings
from services.errors import IsthmusError, NotFound

_PAGE_SIZE: Final = 1_000
_log: Final = structlog.get_logger("libraries")


class Files:
    """Writes, finds, reads and deletes files. Every error is an IsthmusError."""

    def __init__(
        self,
        backend: Backend,
        documents: Documents,
        settings: LibrariesSettings,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._documents = documents
        self._settings = settings
        self._random_bytes = random_bytes
        self._clock = clock

    async def begin(self, tenant: str, filename: str, media_type: str) -> str:
        """The id of a file that is to be written: seen by nobody before `finish`, and gone by itself without it."""
        file = new_id(self._random_bytes, int(self._clock() * 1000))
        session = begun(filename, media_type, self._settings.upload_kept_ms)
        await self._backend.create_session(tenant, file_session(file), session)
        return file

    async def write(self, tenant: str, file: str, chunks: AsyncIterator[bytes]) -> int:
        """Streams the file's bytes, a chunk of at most 1 MiB at a time; how many there were.

        INVALID_UTF8 with the first bad byte as its metadata's `offset`.
        """
        document = await self._backend.write_document(tenant, file_session(file), _parts(chunks))
        return document.committed_bytes

    async def finish(
        self, tenant: str, file: str, *, media_type: str, purpose: str, size_bytes: int, expires_after_s: int = 0
    ) -> File:
        """The file, which is there from now on."""
        session = ended(media_type, purpose, size_bytes, expires_after_s)
        changed = await self._backend.update_session(tenant, file_session(file), session, paths=("labels", "ttl"))
        found = file_of(changed, self._clock())
        if found is None:
            raise NotFound(f"file {file}")
        return found

    async def abandon(self, tenant: str, file: str) -> None:
        """Erases what was written of a file that will not be whole; what fails here goes by itself later."""
        try:
            await self._backend.delete_session(tenant, file_session(file))
        except IsthmusError as error:
            _log.warning("cut upload not erased, it goes by itself", file=file, error=str(error))

    async def get(self, tenant: str, file: str) -> File:
        """A file; NOT_FOUND where there is none."""
        session = await self._backend.get_session(tenant, file_session(file))
        found = file_of(session, self._clock())
        if found is None:
            raise NotFound(f"file {file}")
        return found

    async def list(self, tenant: str, *, purpose: str = "", after: str = "", count: int) -> list[File]:
        """At most `count` files, the newest first, from behind the one that is named."""
        found: list[File] = []
        token = ""
        while True:
            page = await self._backend.list_sessions(
                tenant,
                page_size=min(_PAGE_SIZE, count - len(found)),
                page_token=token,
                filter_text=list_filter(purpose, after),
                collection=FILE,
            )
            now_s = self._clock()
            found += filter(None, (file_of(session, now_s) for session in page.sessions))
            token = page.next_page_token
            if not token or len(found) >= count:
                return found

    async def delete(self, tenant: str, file: str) -> None:
        """Erases a file; NOT_FOUND where there is none."""
        await self.get(tenant, file)
        await self._backend.delete_session(tenant, file_session(file))

    async def read(self, tenant: str, file: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The file's bytes as they come, from an offset on."""
        session = file_session(file)
        async with aclosing(self._documents.read(tenant, session, FILE_DOCUMENT, offset)) as answers:
            async for answer in answers:
                yield answer.data


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[document_pb2.DocumentPart]:
    part = document_pb2.DocumentPart
    yield part(header=part.Header(document_id=FILE_DOCUMENT))
    offset = 0
    async for data in chunks:
        yield part(chunk=part.Chunk(offset=offset, data=data))
        offset += len(data)
    yield part(end=part.End(size_bytes=offset))
