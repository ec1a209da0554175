"""Where libraries and files lie in the store: as sessions of collections of their own, and by which ids. Pure."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from services.collections import FILE, LIBRARY, member, own_id

# The one document of a file.
FILE_DOCUMENT: Final = "content"

_ID_BYTES: Final = 8
_TIME_BITS: Final = 48


def library_session(library: str) -> str:
    """The session of a library."""
    return member(LIBRARY, library)


def file_session(file: str) -> str:
    """The session of a file."""
    return member(FILE, file)


def plain_id(name: str) -> str:
    """The id within its collection, of a session's id or name."""
    return own_id(name)


def new_id(random_bytes: Callable[[int], bytes], now_ms: int) -> str:
    """An id of 28 hexadecimal digits that sorts before all that were made in an earlier millisecond: newest first."""
    return _inverted(now_ms) + random_bytes(_ID_BYTES).hex()


def id_of_key(tenant: str, key: str) -> str:
    """The id of what is made under an Idempotency-Key or a request_id: the same for every retry."""
    digest = blake2b(key.encode(), key=tenant.encode()[:64], digest_size=14)
    return digest.hexdigest()


def _inverted(now_ms: int) -> str:
    return f"{(1 << _TIME_BITS) - 1 - now_ms:012x}"
