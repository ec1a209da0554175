"""An upload on its way: the request's body is parsed as it comes and goes on to the store, never held whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from isthmus.errors.v1 import errors_pb2

from gateway.http.body import BoundedRequest
from gateway.http.edge import Edge
from gateway.http.errors import CLIENT_GONE, Refusal
from gateway.http.files.fields import Fields, read_fields
from gateway.http.files.form import Event, FileBegins, FileEnds, Form
from gateway.http.files.media_types import binary_at, media_type_of, problem_of
from gateway.libraries.file_record import File
from services.config import LibrariesSettings
from services.errors import IsthmusError

# What goes to the store in one message.
CHUNK_BYTES: Final = 256 << 10
_NAME_BYTES_MAX: Final = 256


async def upload(request: BoundedRequest, edge: Edge) -> File:
    """The file of the request's form. Whatever goes wrong on the way leaves nothing behind."""
    files = edge.libraries.files
    reading = _Reading(request, edge.settings.libraries)
    begins = await reading.until_file()
    filename, media_type = _named(begins)
    # What came before the file is looked at before any of it is taken.
    read_fields(reading.form.fields, is_whole=False)
    file = await files.begin(edge.tenant, filename, media_type)
    try:
        size = await _written(edge, file, reading)
        fields = await reading.rest()
        return await files.finish(
            edge.tenant,
            file,
            media_type=media_type,
            purpose=fields.purpose,
            size_bytes=size,
            expires_after_s=fields.expires_after_s,
        )
    except BaseException:
        # Also where the client has gone: in a task of its own, as this one may be cancelled.
        await edge.libraries.background.finish(files.abandon(edge.tenant, file), "abandon upload")
        raise


async def _written(edge: Edge, file: str, reading: _Reading) -> int:
    try:
        return await edge.libraries.files.write(edge.tenant, file, reading.chunks())
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_INVALID_UTF8:
            raise
        message = f"file: byte {error.metadata.get('offset', '?')} is not UTF-8; expected a text in UTF-8"
        raise Refusal(400, "invalid_file", "file", message) from error


class _Reading:
    """The body of a request, as far as it was asked for."""

    def __init__(self, request: BoundedRequest, settings: LibrariesSettings) -> None:
        self._request = request
        self._idle_s = settings.upload_idle_ms_max / 1000
        self.form = Form(request.headers.get("content-type", ""), settings.file_bytes_max)
        self._events = self._parsed()

    async def until_file(self) -> FileBegins:
        """Where the file begins. Refusal where there is none."""
        event = await anext(self._events, None)
        if event is None:
            self.form.close()
        assert isinstance(event, FileBegins)
        return event

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes in chunks of one size. Refusal for a byte that no text has, by its place."""
        waiting = bytearray()
        offset = 0
        async for event in self._events:
            if isinstance(event, FileEnds):
                break
            assert isinstance(event, bytes)
            at = binary_at(event)
            if at >= 0:
                message = f"file: byte {offset + at} is 0, which no text has; expected a text in UTF-8"
                raise Refusal(400, "invalid_file", "file", message)
            offset += len(event)
            waiting += event
            while len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting[:CHUNK_BYTES])
                del waiting[:CHUNK_BYTES]
        if waiting:
            yield bytes(waiting)

    async def rest(self) -> Fields:
        """What comes behind the file, to the form's end."""
        async for _ in self._events:
            pass
        self.form.close()
        return read_fields(self.form.fields, is_whole=True)

    async def _parsed(self) -> AsyncIterator[Event]:
        while True:
            data, is_last = await self._receive()
            if data:
                for event in self.form.feed(data):
                    yield event
            if is_last:
                return

    async def _receive(self) -> tuple[bytes, bool]:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._idle_s):
                event = await self._request.receive()
                if event["type"] != "http.request":
                    raise Refusal(CLIENT_GONE, "client_gone", None, "the client went away before its file had arrived")
                return event["body"], not event.get("more_body", False)
        message = (
            f"nothing of the file came for {self._idle_s:g} s (gateway.libraries.upload_idle_ms_max); send it anew"
        )
        raise Refusal(408, "request_timeout", None, message)


def _named(begins: FileBegins) -> tuple[str, str]:
    """Its name and type. Refusal for what cannot be a text, before any of it is taken."""
    size = len(begins.filename.encode())
    if size > _NAME_BYTES_MAX:
        message = f"file: has a name of {size} bytes; expected at most {_NAME_BYTES_MAX}"
        raise Refusal(400, "invalid_value", "file", message)
    media_type = media_type_of(begins.filename, begins.media_type)
    problem = problem_of(media_type)
    if problem:
        raise Refusal(400, "unsupported_file", "file", f"file: {begins.filename[:100]} {problem}")
    return begins.filename, media_type
