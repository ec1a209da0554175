"""How many tokens a turn's window may hold, from the model's limits and what the reply may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.session.v1 import message_pb2

from services.errors import InvalidField


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """A model as its replicas announce it, all sizes in tokens."""

    name: str
    tokenizer: bytes
    context_tokens_max: int
    overhead_tokens: int
    max_output_tokens_default: int

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> ModelLimits:
        """The limits in a member's labels; KeyError or ValueError if one is missing or no number."""
        return cls(
            name=labels["model"],
            tokenizer=bytes.fromhex(labels["tokenizer"]),
            context_tokens_max=int(labels["context_tokens_max"]),
            overhead_tokens=int(labels["overhead_tokens"]),
            max_output_tokens_default=int(labels["max_output_tokens_default"]),
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """The model's context, divided between window and reply, in tokens."""

    window_tokens_max: int
    output_tokens_max: int


def divide(limits: ModelLimits, params: message_pb2.SamplingParams) -> Budget:
    """What is left for the window when the template and the reply have theirs.

    A reply that was asked for must leave room for a window: InvalidField on `params.max_output_tokens` otherwise. The
    model's default reply is cut to half of the context where it would leave less to the window.
    """
    room = limits.context_tokens_max - limits.overhead_tokens
    if not params.HasField("max_output_tokens"):
        output = max(1, min(limits.max_output_tokens_default, room // 2))
    elif params.max_output_tokens < room:
        output = params.max_output_tokens
    else:
        raise InvalidField(
            "params.max_output_tokens",
            f"is {params.max_output_tokens}, expected less than {room}: "
            f"{limits.name} takes {limits.context_tokens_max} tokens, window and reply together",
        )
    return Budget(window_tokens_max=max(1, room - output), output_tokens_max=output)
