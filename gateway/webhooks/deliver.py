"""One delivery of an event: resolved, checked, connected to the very address that was checked, and answered or not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from gateway.webhooks.addresses import ForbiddenAddressError, chosen
from gateway.webhooks.event import headers
from services.config import WebhookSettings
from services.webhooks.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a delivery; `problem` is empty where the endpoint took the event."""

    problem: str = ""
    status: int = 0

    @property
    def is_taken(self) -> bool:
        """Whether the endpoint has it."""
        return not self.problem


class Sender:
    """Sends events over HTTP. Follows no redirect, uses no proxy, and reads no more of an answer than it must."""

    def __init__(self, settings: WebhookSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        # No connection is kept: the next delivery asks for the address anew.
        limits = httpx.Limits(max_connections=max(1, settings.deliveries_concurrent_max), max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            limits=limits, timeout=settings.delivery_ms_max / 1000, follow_redirects=False, trust_env=False
        )

    async def aclose(self) -> None:
        """Lets go of connections."""
        await self._http.aclose()

    async def send(self, endpoint: Endpoint, event_id: str, body: bytes) -> Outcome:
        """Delivers once, within `delivery_ms_max`. Never raises for what the endpoint, or its address, is like."""
        try:
            async with asyncio.timeout(self._settings.delivery_ms_max / 1000):
                return await self._send(endpoint, event_id, body)
        except ForbiddenAddressError as error:
            return Outcome(str(error))
        except TimeoutError:
            return Outcome(f"no answer within {self._settings.delivery_ms_max} ms")
        except (httpx.HTTPError, OSError) as error:
            return Outcome(f"{type(error).__name__}: {error}"[:512])

    async def _send(self, endpoint: Endpoint, event_id: str, body: bytes) -> Outcome:
        url = httpx.URL(endpoint.url)
        address = await self._address(endpoint.url)
        sent = headers(endpoint.secret, event_id, body, self._clock()) | {"host": url.netloc.decode()}
        # The certificate has to be the name's, though the address is what is connected to.
        extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
        request = self._http.build_request(
            "POST", url.copy_with(host=address), content=body, headers=sent, extensions=extensions
        )
        answer = await self._http.send(request, stream=True)
        try:
            await self._drop(answer)
        finally:
            await answer.aclose()
        if answer.is_success:
            return Outcome(status=answer.status_code)
        return Outcome(f"answered {answer.status_code}, expected 2xx", answer.status_code)

    async def _address(self, url: str) -> str:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        return chosen(host, addresses, private_allowed=self._settings.private_allowed)

    async def _drop(self, answer: httpx.Response) -> None:
        """Reads a short answer to its end, for the sake of servers that mind; a long one is cut."""
        left = self._settings.answer_bytes_max
        async for chunk in answer.aiter_raw():
            left -= len(chunk)
            if left < 0:
                return
