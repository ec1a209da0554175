"""What is kept of a file in a library beside its document: whether and how far it was copied. Pure; times in ms."""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b
from typing import Final

import msgspec

_KEY_BYTES: Final = 16
MARK_CHARS: Final = 16
# What a stored record begins with, for the scripts: the mark, then the bytes of its text in hexadecimal digits.
_SIZE_CHARS: Final = 12
HEAD_CHARS: Final = MARK_CHARS + _SIZE_CHARS
TOKENS_MAX_DEFAULT: Final = 800
OVERLAP_TOKENS_DEFAULT: Final = 400


class AttachmentState(Enum):
    """Where a file in a library stands."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self is not AttachmentState.IN_PROGRESS


class ErrorCode(Enum):
    """Why a file failed, in OpenAI's words."""

    SERVER = "server_error"
    UNSUPPORTED = "unsupported_file"
    INVALID = "invalid_file"


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document of a library. `mark` tells one attaching of a file from another, `file` is the document's id, too.

    `is_upload` is one whose text came from a caller and not from a file. `error` is an ErrorCode's value.
    """

    file: str
    mark: str
    create_ms: int
    state: AttachmentState = AttachmentState.IN_PROGRESS
    batch: str = ""
    filename: str = ""
    text_bytes: int = 0
    attributes: dict[str, str | float | bool] = {}
    tokens_max: int = TOKENS_MAX_DEFAULT
    overlap_tokens: int = OVERLAP_TOKENS_DEFAULT
    is_upload: bool = False
    # Failures since the last progress, and since when its text is in the log.
    failures: int = 0
    copied_ms: int = 0
    error: str = ""
    message: str = ""

    def key(self, tenant: str, library: str) -> str:
        """What its job does is the job's key in the queue, so that asking twice adds nothing."""
        what = f"{tenant}/{library}/{self.file}/{self.mark}"
        return blake2b(what.encode(), digest_size=_KEY_BYTES).hexdigest()


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Files that were attached together."""

    id: str
    create_ms: int
    files: list[str]
    is_cancelled: bool = False


def encode(attachment: Attachment) -> bytes:
    """The record as it is stored."""
    head = f"{attachment.mark}{attachment.text_bytes:0{_SIZE_CHARS}x}"
    return head.encode() + msgspec.json.encode(attachment)


def decode(stored: bytes) -> Attachment:
    """The record that was stored. Raises msgspec.MsgspecError for bytes that are none."""
    return msgspec.json.decode(stored[HEAD_CHARS:], type=Attachment)
