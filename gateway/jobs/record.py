"""What is kept of a job beside its turn, which is the truth. Pure; times are ms since 1970, 0 is not yet."""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b
from typing import Final

import msgspec
from isthmus.errors.v1 import errors_pb2

_KEY_BYTES: Final = 16
# The key of a job comes first in what is stored, so that scripts can compare it.
KEY_CHARS: Final = 2 * _KEY_BYTES


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    # For its next attempt.
    WAITING = "waiting"
    DONE = "done"
    CANCELLED = "cancelled"
    # Its turn came to nothing, or is gone; a dead letter may be replayed.
    FAILED = "failed"
    DEAD = "dead"

    @property
    def is_live(self) -> bool:
        """Whether something is still to come."""
        return self in (JobState.QUEUED, JobState.RUNNING, JobState.WAITING)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job: whose it is, which turn it drives, and how far it is.

    `reason` and `message` say why the latest attempt failed: an ErrorReason without its prefix, and its message.
    """

    tenant: str
    session: str
    turn: int
    incarnation: bytes
    request_id: str
    state: JobState = JobState.QUEUED
    attempt: int = 0
    create_ms: int
    start_ms: int = 0
    end_ms: int = 0
    output_bytes: int = 0
    reason: str = ""
    message: str = ""

    @property
    def name(self) -> str:
        """Which turn it is, within its tenant."""
        return job_name(self.session, self.turn)

    @property
    def key(self) -> str:
        """What the job does is its key in the queue, so that asking twice adds nothing. It tells no session's name."""
        what = f"{self.tenant}/{self.name}/{self.incarnation.hex()}"
        return blake2b(what.encode(), digest_size=_KEY_BYTES).hexdigest()


def job_name(session: str, turn: int) -> str:
    """`{session}/{turn}`."""
    return f"{session}/{turn}"


def driver_of(tenant: str, session: str, request_id: str) -> str:
    """The driver that opens a turn for its job: the same each time the request comes, so that it finds its own turn."""
    what = msgspec.json.encode([tenant, session, request_id])
    return f"queued-{blake2b(what, digest_size=_KEY_BYTES).hexdigest()}"


def encode(record: JobRecord) -> bytes:
    """The record as it is stored: its key, then JSON."""
    return record.key.encode() + msgspec.json.encode(record)


def decode(stored: bytes) -> JobRecord:
    """The record that was stored. Raises msgspec.MsgspecError for bytes that are none."""
    return msgspec.json.decode(stored[KEY_CHARS:], type=JobRecord)


def reason_of(name: str) -> errors_pb2.ErrorReason.ValueType:
    """The ErrorReason of a record's `reason`; INTERNAL for one that only a later release knows."""
    full = f"ERROR_REASON_{name}"
    known = full in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - protobuf's own
    return errors_pb2.ErrorReason.Value(full) if known else errors_pb2.ERROR_REASON_INTERNAL
