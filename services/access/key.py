"""An API key's form: `isk-<id>-<secret and checksum>`, how one is made, read and hashed. Pure.

| part | characters | what it is |
|---|---|---|
| `isk` | 3 | tells people and secret scanners what they have found |
| id | 12 | names the key in lists, logs and commands; no secret |
| secret | 32 | 160 random bits |
| checksum | 7 | CRC-32 of all before it, so that a typing error is told without asking anybody |

The alphabet is RFC 4648's base32 in small letters: safe in URLs, headers and shells, and without 0 and 1.

What is kept of a secret is its BLAKE2b. A slow hash, as for passwords, would make each guess dear; 160 random bits are
beyond guessing at any speed, and the gateway hashes on every call. The hash is salted with the key's id, so that one
cannot be moved to another key's record.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final
from zlib import crc32

PREFIX: Final = "isk"
ID_CHARS: Final = 12
SECRET_CHARS: Final = 32
CHECKSUM_CHARS: Final = 7
KEY_CHARS: Final = len(PREFIX) + 1 + ID_CHARS + 1 + SECRET_CHARS + CHECKSUM_CHARS
DIGEST_BYTES: Final = 32

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_FORM: Final = re.compile(
    rf"{PREFIX}-([a-z2-7]{{{ID_CHARS}}})-([a-z2-7]{{{SECRET_CHARS}}})([a-z2-7]{{{CHECKSUM_CHARS}}})"
)
_ID: Final = re.compile(rf"[a-z2-7]{{{ID_CHARS}}}")
_PERSON: Final = b"isthmus api key"


class MalformedKey(ValueError):  # noqa: N818
    """A text that is no API key, and why; without the text."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its holder has it. Neither `str` nor `repr` tells the secret; `text` does."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key, which is shown once."""
        head = f"{PREFIX}-{self.id}-{self.secret}"
        return head + _checksum(head)

    @property
    def digest(self) -> bytes:
        """What is kept of the secret, DIGEST_BYTES bytes."""
        salt = self.id.encode()
        return blake2b(self.secret.encode(), digest_size=DIGEST_BYTES, salt=salt, person=_PERSON).digest()


def mint(random_bytes: Callable[[int], bytes]) -> ApiKey:
    """A new key; `random_bytes(n)` gives n bytes that nobody can foretell."""
    return ApiKey(_characters(random_bytes(ID_CHARS)), _characters(random_bytes(SECRET_CHARS)))


def parse(text: str) -> ApiKey:
    """The key in a text; MalformedKey says what is wrong with it."""
    if not text.startswith(f"{PREFIX}-"):
        raise MalformedKey(f"it does not begin with {PREFIX}-")
    if len(text) != KEY_CHARS:
        raise MalformedKey(f"it has {len(text)} characters, expected {KEY_CHARS}")
    match = _FORM.fullmatch(text)
    if match is None:
        raise MalformedKey("it holds characters other than a to z and 2 to 7, or its hyphens are elsewhere")
    if _checksum(text[:-CHECKSUM_CHARS]) != match[3]:
        raise MalformedKey("its checksum does not fit: a character of it is wrong")
    return ApiKey(match[1], match[2])


def is_id(text: str) -> bool:
    """Whether a text may be a key's id."""
    return _ID.fullmatch(text) is not None


def _characters(random: bytes) -> str:
    # 256 is a multiple of 32, so that each character is as likely as any other.
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in random)


def _checksum(head: str) -> str:
    value = crc32(head.encode())
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in reversed(range(CHECKSUM_CHARS)))
