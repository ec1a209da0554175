"""A reply that another replica has begun: the tokens that stand for it here, and where its text goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import turn_pb2

from inference.detokenize import Detokenizer
from inference.tokenizer import TokenIds, Tokenizer


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of a reply; nothing of it for a reply that begins here.

    `ids` are what the engine reads of it, `tokens` how many count against the reply's length. `text` has gone out,
    `owed` comes of the ids and has not. `detokenizer` goes on behind them.
    """

    ids: TokenIds
    tokens: int
    text: str
    owed: str
    detokenizer: Detokenizer

    def finish_reason(self, tokens_max: int) -> turn_pb2.FinishReason.ValueType:
        """Why there is nothing to go on with; unspecified if there is."""
        if self.detokenizer.stopped:
            return turn_pb2.FINISH_REASON_STOP
        return turn_pb2.FINISH_REASON_LENGTH if self.tokens >= tokens_max else turn_pb2.FINISH_REASON_UNSPECIFIED


def take_over(emitted: contract.Emitted, tokenizer: Tokenizer, stop: Sequence[str]) -> Begun:
    """Works out where a reply goes on; as long as encoding its text takes.

    What the client has read counts: without ids, or with ids that do not give that text, the text is encoded.
    """
    ids, text = emitted.token_ids, emitted.text
    detokenizer = Detokenizer(tokenizer, stop)
    owed = detokenizer.resume(ids, text)
    if owed is not None:
        return Begun(np.asarray(ids, dtype=np.int32), len(ids), text, owed, detokenizer)
    detokenizer = Detokenizer(tokenizer, stop)
    detokenizer.resume_text(text)
    encoded = tokenizer.encode(text)
    return Begun(encoded, max(len(encoded), len(ids)), text, "", detokenizer)
