"""What makes a request the same request: its id, and a digest of what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

from isthmus.session.v1 import message_pb2, session_service_pb2

DIGEST_BYTES = 16
_ID_BYTES = 12


def new_id(random_bytes: Callable[[int], bytes], prefix: str) -> str:
    """`{prefix}-` and 96 random bits in hex: a session, request or driver id that nobody else has."""
    return f"{prefix}-{random_bytes(_ID_BYTES).hex()}"


def turn_digest(request: session_service_pb2.RunTurnRequest, after_turn: int | None) -> bytes:
    """BLAKE2b-128 over what a turn asks for: messages, parameters, model, truncation and the turn that it follows.

    The session and the request_id are what the digest is kept under, so they are not in it.
    """
    body = session_service_pb2.RunTurnRequest(
        messages=request.messages, model=request.model, truncation=request.truncation
    )
    if request.HasField("params"):
        body.params.CopyFrom(request.params)
    serialised = body.SerializeToString(deterministic=True)
    after = b"" if after_turn is None else str(after_turn).encode()
    return blake2b(serialised, digest_size=DIGEST_BYTES, key=after).digest()


def messages_digest(messages: Iterable[message_pb2.Message]) -> bytes:
    """BLAKE2b-128 over messages in order, for AppendMessages."""
    body = session_service_pb2.AppendMessagesRequest(messages=messages)
    return blake2b(body.SerializeToString(deterministic=True), digest_size=DIGEST_BYTES).digest()
