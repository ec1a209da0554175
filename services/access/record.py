"""What is kept of an API key, and whether one that is shown is it. Pure; times are ms since 1970, 0 is never."""

from __future__ import annotations

import hmac
from enum import Enum
from typing import Final

import msgspec

from services.access.key import DIGEST_BYTES, ApiKey
from services.access.scopes import Scope

_NO_DIGEST: Final = bytes(DIGEST_BYTES)


class KeyState(Enum):
    """Where a key stands at a moment."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. Its id is the name under which it is stored."""

    id: str
    tenant: str
    digest: bytes
    scopes: tuple[Scope, ...]
    display_name: str = ""
    create_ms: int
    expire_ms: int = 0
    revoke_ms: int = 0

    def state(self, now_ms: int) -> KeyState:
        """Whether the key opens anything at that time."""
        if self.revoke_ms:
            return KeyState.REVOKED
        return KeyState.EXPIRED if self.expire_ms and now_ms >= self.expire_ms else KeyState.ACTIVE


class Verdict(Enum):
    """What a key that is shown is worth. Who has the secret wrong learns no more than that."""

    VALID = "valid"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"


_BY_STATE: Final = {
    KeyState.ACTIVE: Verdict.VALID,
    KeyState.EXPIRED: Verdict.EXPIRED,
    KeyState.REVOKED: Verdict.REVOKED,
}


def judge(record: Record | None, key: ApiKey, now_ms: int) -> Verdict:
    """The key against its record, None where there is none of its id.

    Hashes and compares once in every case, and compares in constant time: how long it takes tells neither whether the
    id exists nor how much of the secret is right.
    """
    is_same = hmac.compare_digest(_NO_DIGEST if record is None else record.digest, key.digest)
    if record is None or not is_same:
        return Verdict.UNKNOWN
    return _BY_STATE[record.state(now_ms)]


def encode(record: Record) -> bytes:
    """The record as it is stored: JSON."""
    return msgspec.json.encode(record)


def decode(stored: bytes) -> Record:
    """The record that was stored. Raises msgspec.MsgspecError for bytes that are none."""
    return msgspec.json.decode(stored, type=Record)
