"""Another try of a reply that a check refused. Pure."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Final

from isthmus.session.v1 import message_pb2, session_service_pb2

from gateway.turn.calls import Errand

_SEED_MAX: Final = (1 << 31) - 1


def resampled(errand: Errand, number: int, temperature_min: float) -> Errand:
    """The errand of a try, from 1 on: by a seed of its own, the same one however often the turn is driven, and not at
    a temperature at which the same reply would come again.

    The window stays as it is, so that the replica finds it as it left it: a note of why would be another window.
    """
    asked = errand.request
    params = message_pb2.SamplingParams()
    params.CopyFrom(asked.params)
    drawn = blake2b(f"{errand.request_id}/{params.seed}/{number}".encode(), digest_size=8).digest()
    params.seed = int.from_bytes(drawn) & _SEED_MAX
    if params.HasField("temperature"):
        params.temperature = max(params.temperature, temperature_min)
    request = session_service_pb2.RunTurnRequest(
        session=asked.session,
        request_id=asked.request_id,
        params=params,
        model=asked.model,
        priority=asked.priority,
        labels=asked.labels,
    )
    return replace(errand, request=request)
