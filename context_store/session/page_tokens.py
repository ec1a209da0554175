"""Page tokens: where a list goes on, sealed with the list that it belongs to. Pure."""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b

_SEAL_BYTES = 8


class PageTokenError(Exception):
    """The token was not issued for this list."""


def write(scope: str, position: str) -> str:
    """A token for `position` of the list that `scope` names: method, parent and parameters."""
    place = position.encode()
    return base64.urlsafe_b64encode(_seal(scope, place) + place).decode().rstrip("=")


def read(token: str, scope: str) -> str:
    """The position of a token, an empty one for the first page. Raises PageTokenError for a token of another list."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position = raw[_SEAL_BYTES:].decode()
    except (binascii.Error, ValueError) as error:
        raise PageTokenError(token) from error
    if raw[:_SEAL_BYTES] != _seal(scope, raw[_SEAL_BYTES:]):
        raise PageTokenError(token)
    return position


def _seal(scope: str, place: bytes) -> bytes:
    return blake2b(place, key=blake2b(scope.encode(), digest_size=32).digest(), digest_size=_SEAL_BYTES).digest()
