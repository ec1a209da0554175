"""What a response gives back of its request, kept with its turn: whoever reads the turn later gets the same. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.http.render import Echo

_LABEL: Final = "openai-response"
# The contract's bound of a label.
_BYTES_MAX: Final = 16_384


def labelled(turn: session_service_pb2.RunTurnRequest, echo: Echo) -> session_service_pb2.RunTurnRequest:
    """The request with its echo as a label. Instructions that are too long for one are not given back later."""
    labelled = session_service_pb2.RunTurnRequest()
    labelled.CopyFrom(turn)
    encoded = msgspec.json.encode(echo)
    if len(encoded) > _BYTES_MAX:
        encoded = msgspec.json.encode(replace(echo, instructions=None))
    labelled.labels[_LABEL] = encoded.decode()
    return labelled


def echo_of(turn: turn_pb2.Turn) -> Echo | None:
    """The echo that a turn was labelled with; None for a turn that did not come in as a response."""
    label = turn.labels.get(_LABEL)
    return None if label is None else msgspec.json.decode(label, type=Echo)
