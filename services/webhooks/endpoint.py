"""An endpoint as it is kept. Pure; times are ms since 1970."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from services.errors import InvalidField

EVENTS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
# Sent by `isthmus webhooks test` alone, whatever an endpoint has asked for.
TEST_EVENT: Final = "webhook.test"
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 8
_URL_CHARS_MAX: Final = 2_048


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tenant's events go, and the secret that signs them. No events are all of them."""

    id: str
    tenant: str
    url: str
    secret: str
    events: tuple[str, ...] = ()
    create_ms: int

    def takes(self, event: str) -> bool:
        """Whether events of this type go there."""
        return event == TEST_EVENT or not self.events or event in self.events


def created(
    tenant: str, url: str, events: Sequence[str], *, now_ms: int, random_bytes: Callable[[int], bytes]
) -> Endpoint:
    """A new endpoint with a secret of its own. Raises InvalidField."""
    for event in events:
        if event not in EVENTS:
            raise InvalidField("event", f"is {event[:64]!r}, expected one of {', '.join(EVENTS)}")
    secret = base64.b64encode(random_bytes(_SECRET_BYTES)).decode()
    return Endpoint(
        id=f"wh-{random_bytes(_ID_BYTES).hex()}",
        tenant=tenant,
        url=checked_url(url),
        secret=f"whsec_{secret}",
        events=tuple(dict.fromkeys(events)),
        create_ms=now_ms,
    )


def checked_url(url: str) -> str:
    """The URL, if events can go there: http or https with a host, without credentials, fragment or spaces."""
    expected = "expected https://host/path or http://host/path, without credentials or a fragment"
    if len(url) > _URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidField("url", f"has characters that a URL has not, or more than {_URL_CHARS_MAX}; {expected}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidField("url", f"{error}; {expected}") from None
    is_good = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not is_good or parts.username is not None or parts.fragment:
        raise InvalidField("url", f"is {url[:128]!r}; {expected}")
    return url


def encode(endpoint: Endpoint) -> bytes:
    """The endpoint as it is stored: JSON."""
    return msgspec.json.encode(endpoint)


def decode(stored: bytes) -> Endpoint:
    """The endpoint that was stored. Raises msgspec.MsgspecError for bytes that are none."""
    return msgspec.json.decode(stored, type=Endpoint)
