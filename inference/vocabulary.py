"""What a model says of its text side, apart from the tokenizer itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Whatever turns texts into a model's ids and its ids into text.

    `control` are the tokens by name that only a template may place; `silent_ids` of them have no text of their own in a
    reply, and `end_ids` end one. `variables` are the texts that the chat template may ask for, such as `bos_token`.
    `byte_level` tells GPT-2's alphabet of bytes from SentencePiece's.
    """

    chat_template: str
    context_tokens_max: int
    control: Mapping[str, int]
    silent_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    tokenizer_sha256: str
    variables: Mapping[str, str] = field(default_factory=dict)
    byte_level: bool = True
