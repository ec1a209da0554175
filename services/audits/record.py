"""What is kept of an audit, and which turns have one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

import msgspec

_FRACTIONS: Final = 1 << 64
COUNTERS: Final = ("audits", "supported", "contradicted", "unsupported")


class ClaimRecord(msgspec.Struct, frozen=True, array_like=True):
    """A claim: its verdict (a number of `claims.judge.Verdict`), its place in bytes, its score and where it stands."""

    verdict: int
    start_byte: int
    end_byte: int
    score: float
    sequences: tuple[int, ...] = ()


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict on one turn. Nothing of its text. Times are ms since 1970."""

    session: str
    turn: int
    model: str
    end_ms: int
    audit_ms: int
    method: str
    fallback: str = ""
    claims: tuple[ClaimRecord, ...] = ()
    claims_more: int = 0
    window_cut: bool = False

    @property
    def name(self) -> str:
        """The turn among all of its tenant, in the order of their ends: also if a session of this id was erased."""
        return f"{self.end_ms:015d}/{self.session}/{self.turn}"

    @property
    def day(self) -> str:
        """The day on which the turn ended, so that it is the same one whenever it is judged."""
        return day_of(self.end_ms)

    def counts(self) -> Mapping[str, int]:
        """What it adds to its day's, by COUNTERS."""
        verdicts = [claim.verdict for claim in self.claims]
        return {
            "audits": 1,
            **{name: verdicts.count(number) for number, name in enumerate(COUNTERS[1:], start=1)},
        }


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AuditRecord)


def encode(record: AuditRecord) -> bytes:
    """For Valkey."""
    return _ENCODER.encode(record)


def decode(stored: bytes) -> AuditRecord | None:
    """None for what a later release wrote in another way."""
    try:
        return _DECODER.decode(stored)
    except msgspec.MsgspecError:
        return None


def day_of(ms: int) -> str:
    """The day by UTC, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def is_sampled(tenant: str, turn: str, share: float) -> bool:
    """Whether a turn, by its name, is of the share that is audited: the same answer everywhere and always.

    A larger share has all turns of a smaller one.
    """
    digest = blake2b(f"{tenant}/{turn}".encode(), digest_size=8, person=b"audit").digest()
    return int.from_bytes(digest) < share * _FRACTIONS
