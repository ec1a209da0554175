"""The one implementation of content digests: store, gateway, replica and compressor agree on a window through it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b

from isthmus.context.v1 import window_pb2

DIGEST_BYTES = 16
EMPTY = bytes(DIGEST_BYTES)

_HEADER = struct.Struct(">iiiI")


def fragment_digest(kind: int, role: int, author: str, part: int, text: str) -> bytes:
    """BLAKE2b-128 of a fragment's content: 16 bytes, equal for equal content everywhere.

    Numbers are big-endian and the author carries its length, so no two different contents share an encoding.
    `kind` is a FragmentKind or a WindowItemKind: their numbers agree.
    """
    speaker = author.encode()
    digest = blake2b(_HEADER.pack(kind, role, part, len(speaker)), digest_size=DIGEST_BYTES)
    digest.update(speaker)
    digest.update(text.encode())
    return digest.digest()


def item_digest(item: window_pb2.WindowItem) -> bytes:
    """The digest of a window item's content, computed from the content and not taken from the item."""
    return fragment_digest(item.kind, item.role, item.author, item.part, item.text)


def chain(previous: bytes, digest: bytes) -> bytes:
    """The next point of a digest chain: digest(n) = BLAKE2b-128(digest(n-1) || item n's digest), 16 bytes."""
    return blake2b(previous + digest, digest_size=DIGEST_BYTES).digest()


def source_digest(digests: Iterable[bytes]) -> bytes:
    """BLAKE2b-128 over the digests of a span's fragments in order: what a summary was made from."""
    whole = blake2b(digest_size=DIGEST_BYTES)
    for digest in digests:
        whole.update(digest)
    return whole.digest()
