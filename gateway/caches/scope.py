"""What a cached answer is an answer to: its scope, and its place in there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from services.digest import EMPTY, chain

_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Scope:
    """Within it, an answer may be given to another question. Two scopes that differ in anything share nothing.

    `context` is the digest of all that the model sees before the question (system prompt, instructions), empty for
    answers that are given to the same window alone. `libraries` are the versions of what is attached, by name.
    """

    tenant: str
    model: str
    params: bytes
    context: bytes = b""
    libraries: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """32 hex digits. Each part carries its length, so that no two scopes are written alike."""
        whole = blake2b(digest_size=_DIGEST_BYTES, person=b"cache scope")
        parts = [self.tenant.encode(), self.model.encode(), self.params, self.context]
        for name, version in self.libraries:
            parts += [name.encode(), version.encode()]
        for part in parts:
            whole.update(len(part).to_bytes(8, "big") + part)
        return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that stands alone: nothing but system messages, whose chain digest `context` is, come before it."""

    question: str
    context: bytes


def scope_of(
    tenant: str,
    model: str,
    params: message_pb2.SamplingParams,
    context: bytes = b"",
    libraries: Mapping[str, str] | None = None,
) -> Scope:
    """The scope of a turn."""
    digest = blake2b(params.SerializeToString(deterministic=True), digest_size=_DIGEST_BYTES).digest()
    return Scope(tenant, model, digest, context, tuple(sorted((libraries or {}).items())))


def exact_id(manifest: window_pb2.Manifest) -> str:
    """The place of the answer to this very window."""
    return manifest.end.digest.hex()


def asked(manifest: window_pb2.Manifest, question_bytes_max: int) -> Asked | None:
    """The question of a window that has nothing else to rest on; None for any other window."""
    items = manifest.new_items
    if not items or len(items) != manifest.end.item_count or not _is_question(items[-1]):
        return None
    if any(item.role != message_pb2.ROLE_SYSTEM for item in items[:-1]):
        return None
    text = items[-1].text
    if not text.strip() or len(text.encode()) > question_bytes_max:
        return None
    # The question's author, too: an answer may go by who asks.
    return Asked(text, _chained([*(item.digest for item in items[:-1]), items[-1].author.encode()]))


def pair(one: str, other: str) -> str:
    """The name of two questions together, whichever comes first; case and spacing do not tell them apart."""
    digests = sorted(
        blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest() for text in (one, other)
    )
    return blake2b(b"".join(digests), digest_size=_DIGEST_BYTES).hexdigest()


def _is_question(item: window_pb2.WindowItem) -> bool:
    is_message = item.kind == window_pb2.WINDOW_ITEM_KIND_MESSAGE
    return is_message and item.role == message_pb2.ROLE_USER and item.part == 0


def _chained(digests: Sequence[bytes]) -> bytes:
    point = EMPTY
    for digest in digests:
        point = chain(point, digest)
    return point
