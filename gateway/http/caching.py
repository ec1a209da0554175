"""The header `Isthmus-Cache`: asked for with a request, told with an answer that was there already."""

from __future__ import annotations

from typing import Final

from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.http.body import BoundedRequest
from services.errors import InvalidField

HEADER: Final = "Isthmus-Cache"
Policy = session_service_pb2.CachePolicy
_MODES: Final = {"off": Policy.MODE_OFF, "exact": Policy.MODE_EXACT, "semantic": Policy.MODE_SEMANTIC}


def policy_of(request: BoundedRequest) -> session_service_pb2.CachePolicy | None:
    """What the request asks of the caches; None leaves it to the settings. InvalidField names the header."""
    asked = request.headers.get(HEADER.lower())
    if asked is None:
        return None
    mode = _MODES.get(asked.strip().lower())
    if mode is None:
        raise InvalidField(HEADER, f"is {asked[:64]!r}, expected off, exact or semantic")
    return Policy(mode=mode)


def headers_of(receipt: turn_pb2.Receipt) -> dict[str, str]:
    """What an answer from the cache says of itself; nothing for any other."""
    if not receipt.HasField("cache"):
        return {}
    kind = turn_pb2.CacheUse.Kind.Name(receipt.cache.kind).removeprefix("KIND_").lower()
    return {HEADER: f"hit; kind={kind}; score={receipt.cache.score:.4f}"}
