"""The issuer's keys as they are read: from where it says, from a URL or from a file, by a task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import httpx
import msgspec
import structlog

from gateway.access.key_set import Freshness, KeySet, UnusableKeysError
from services.config import JwtSettings
from services.config.jwt import is_trusted
from services.errors import UpstreamUnavailable
from services.long_task import LongTask

_DISCOVERY: Final = "/.well-known/openid-configuration"
_log = structlog.get_logger("access")


class _Discovered(msgspec.Struct):
    """What OpenID Connect Discovery 1.0 has to say, as far as it matters here."""

    issuer: str
    jwks_uri: str


class Jwks:
    """Keys of the issuer. While it is away those that were read last are good, for `jwt.keys_kept_ms_max`."""

    def __init__(self, settings: JwtSettings, ticks: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._ticks = ticks
        self._keys = KeySet({})
        self._freshness = Freshness(
            settings.refresh_ms / 1000, settings.refetch_ms_min / 1000, settings.keys_kept_ms_max / 1000
        )
        self._client = httpx.AsyncClient(timeout=settings.fetch_ms_max / 1000, follow_redirects=False)
        self._reading = asyncio.Lock()
        self._task = LongTask()

    async def start(self) -> None:
        """Begins to read them. Does not wait for the issuer: a mesh comes up without it."""
        self._task.start(self._run(), "jwks")

    async def stop(self) -> None:
        """Ends that."""
        await self._task.stop()
        await self._client.aclose()

    async def keys(self, kid: str | None) -> KeySet:
        """The keys, read anew for one that is not among them if that is not too soon.

        Raises UPSTREAM_UNAVAILABLE while there are none that are good.
        """
        if not (self._freshness.are_good(self._ticks()) and self._keys.has(kid)):
            async with self._reading:
                # Who waited in line finds what the first one has read.
                if not self._keys.has(kid) and self._freshness.may_read(self._ticks()):
                    await self._read()
        if not self._freshness.are_good(self._ticks()):
            raise UpstreamUnavailable(
                f"the keys of the issuer {self._settings.issuer} cannot be read", self._settings.refetch_ms_min
            )
        return self._keys

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._freshness.due_in(self._ticks()))
            async with self._reading:
                if not self._freshness.due_in(self._ticks()):
                    await self._read()

    async def _read(self) -> None:
        read = False
        try:
            async with asyncio.timeout(self._settings.fetch_ms_max / 1000):
                self._keys = KeySet.of(await self._document(), self._settings.keys_count_max)
            read = True
        except (OSError, httpx.HTTPError, TimeoutError, UnusableKeysError) as error:
            _log.warning("issuer_keys_not_read", issuer=self._settings.issuer, error=f"{type(error).__name__}: {error}")
        finally:
            self._freshness.tried(self._ticks(), read=read)

    async def _document(self) -> bytes:
        settings = self._settings
        if settings.jwks_file is not None:
            return await asyncio.to_thread(settings.jwks_file.read_bytes)
        return await self._get(settings.jwks_url or await self._discovered())

    async def _discovered(self) -> str:
        issuer = self._settings.issuer or ""
        answer = await self._get(issuer.rstrip("/") + _DISCOVERY)
        try:
            found = msgspec.json.decode(answer, type=_Discovered)
        except msgspec.DecodeError as error:
            raise UnusableKeysError(f"{_DISCOVERY}: {error}") from None
        if found.issuer != issuer:
            raise UnusableKeysError(f"{_DISCOVERY} is of the issuer {found.issuer!r}, expected {issuer!r}")
        if not is_trusted(found.jwks_uri):
            raise UnusableKeysError(f"{_DISCOVERY}: jwks_uri {found.jwks_uri!r}, expected an https URL")
        return found.jwks_uri

    async def _get(self, url: str) -> bytes:
        bytes_max = self._settings.document_bytes_max
        body = bytearray()
        async with self._client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise UnusableKeysError(f"{url} answers {answer.status_code}, expected 200")
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > bytes_max:
                    raise UnusableKeysError(f"{url} is over {bytes_max} bytes (gateway.access.jwt.document_bytes_max)")
        return bytes(body)
