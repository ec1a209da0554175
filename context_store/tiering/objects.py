"""Objects in a bucket or a folder: what sessions become when they leave Valkey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from isthmus.errors.v1 import errors_pb2
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from services.config import ConfigError, Settings, TieringSettings
from services.errors import IsthmusError, UpstreamUnavailable

_SCHEMES: Final = ("file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
_EXPECTED: Final = "expected file:///path, s3://bucket/path, gs://bucket/path or az://account/container/path"
# Parts of one object that are on their way at once.
_PARTS_CONCURRENT: Final = 2
# What a LocalStore that died left of an object that it had not ended, behind the object's name.
_STAGED: Final = "#1"
# S3 by another name, in the order in which the client looks, and what lets it be without TLS.
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ALLOW_HTTP: Final = "AWS_ALLOW_HTTP"
_TRUE: Final = ("1", "true", "on", "yes", "y")
# Where a machine in a cloud asks for credentials, when the environment has none.
_METADATA: Final = "169.254.169.254"


class Objects(Protocol):
    """Named, immutable runs of bytes. What is put is durable when `put` answers, and is there wholly or not at all.

    Raises UPSTREAM_UNAVAILABLE when the bucket does not answer.
    """

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> None:
        """Writes an object, over one of the same name."""
        ...

    def get(self, name: str) -> AsyncIterator[bytes]:
        """An object's bytes in pieces; CORRUPT where there is none, as somebody said that there is."""
        ...

    async def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each from its first byte to before its last; CORRUPT where there is none."""
        ...

    async def delete(self, name: str) -> int:
        """Bytes of the object that is gone now; 0 where there was none."""
        ...


class Bucket:
    """Objects where `tiering.url` says."""

    def __init__(self, store: ObjectStore, settings: TieringSettings) -> None:
        self._store = store
        self._settings = settings
        self._folder = store.prefix if isinstance(store, LocalStore) else None

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> None:
        """Writes an object; one that is small goes in one request."""
        head = bytearray()
        async for part in parts:
            head += part
            if len(head) >= self._settings.part_bytes_max:
                break
        with _told(name):
            if len(head) < self._settings.part_bytes_max:
                await obstore.put_async(self._store, name, bytes(head), use_multipart=False)
            else:
                await obstore.put_async(
                    self._store,
                    name,
                    _chained(bytes(head), parts),
                    chunk_size=self._settings.part_bytes_max,
                    max_concurrency=_PARTS_CONCURRENT,
                )
            if self._folder:
                await asyncio.to_thread(_to_disk, self._folder / name, self._folder)

    async def get(self, name: str) -> AsyncIterator[bytes]:
        """An object's bytes in pieces of about `chunk_bytes_max`."""
        with _told(name):
            try:
                answer = await obstore.get_async(self._store, name)
            except FileNotFoundError:
                raise _missing(name) from None
            async for piece in answer.stream(min_chunk_size=self._settings.chunk_bytes_max):
                yield bytes(piece)

    async def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object; neighbours are read together."""
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        with _told(name):
            try:
                return [
                    bytes(part) for part in await obstore.get_ranges_async(self._store, name, starts=starts, ends=ends)
                ]
            except FileNotFoundError:
                raise _missing(name) from None

    async def delete(self, name: str) -> int:
        """Deletes an object, and what a broken put has left of it."""
        with _told(name):
            if self._folder:
                (self._folder / (name + _STAGED)).unlink(missing_ok=True)
            try:
                size = (await obstore.head_async(self._store, name))["size"]
                await obstore.delete_async(self._store, name)
            except FileNotFoundError:
                return 0
            return size


def bucket(settings: Settings) -> Bucket:
    """The bucket that the settings name. ConfigError where they name none."""
    url = settings.tiering.url or (settings.mesh.home.absolute() / "objects").as_uri()
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise ConfigError(f"tiering.url: {url!r}: unknown scheme {scheme!r}; {_EXPECTED}")
    try:
        if scheme == "file":
            path = Path(unquote(urlsplit(url).path))
            if not urlsplit(url).path.strip("/") or urlsplit(url).netloc:
                raise ConfigError(f"tiering.url: {url!r} names no folder; {_EXPECTED}")
            return Bucket(LocalStore(path, mkdir=True, automatic_cleanup=True), settings.tiering)
        if scheme in ("s3", "s3a"):
            _check_endpoint(url)
        return Bucket(from_url(url), settings.tiering)
    except (BaseError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"tiering.url: {url!r}: {_brief(error)}; {_EXPECTED}") from error


def _check_endpoint(url: str) -> None:
    """The client would refuse it at the first object, and not say why."""
    allowed = os.environ.get(_ALLOW_HTTP, "").lower() in _TRUE
    for name in _ENDPOINTS:
        endpoint = os.environ.get(name, "")
        if endpoint.startswith("http://") and not allowed:
            what = f"{name} in the environment is {endpoint!r}, without TLS; expected https://, or {_ALLOW_HTTP}=true"
            raise ConfigError(f"tiering.url: {url!r}: {what}")


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        what = f"object {name}: the object store of tiering.url {_refusal(error)}: {_brief(error)}"
        raise UpstreamUnavailable(what) from error


def _refusal(error: Exception) -> str:
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "refuses the environment's credentials"
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return "has no credentials in the environment" if _METADATA in str(error) else "does not answer"


def _missing(name: str) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_CORRUPT,
        f"object {name} is not there; expected it where tiering.url says, restore it from a backup",
    )


def _brief(error: Exception) -> str:
    """An error of obstore without the dump of its insides."""
    return str(error).partition("\n")[0]


async def _chained(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for part in rest:
        yield part


def _to_disk(path: Path, folder: Path) -> None:
    """Brings a file and the names that lead to it to the disk: what it replaces in Valkey was there."""
    for place in (path, *path.parents):
        with suppress(FileNotFoundError):
            descriptor = os.open(place, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if place == folder:
            return
