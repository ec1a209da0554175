"""What a reply has said so far, kept so that another replica can go on with it."""

from __future__ import annotations

from array import array

from isthmus.inference.v1 import inference_service_pb2


class Emitted:
    """The text that went out and the tokens behind it.

    Token ids mean something under one tokenizer only: once replicas of two have spoken, the text alone is handed on.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids = array("i")
        self._tokenizer = b""
        self._is_mixed = False
        # All tokens, whatever their tokenizer.
        self.tokens = 0
        # Whether the client has heard anything, so that no other beginning can take this one's place.
        self.given_out = False

    @property
    def text(self) -> str:
        """All of the text."""
        return "".join(self._pieces)

    def add(self, delta: inference_service_pb2.GenerateResponse.Delta, tokenizer: bytes) -> None:
        """What came from a replica of this tokenizer, by its digest; text and logprobs of it go out."""
        self._is_mixed = self._is_mixed or (self.tokens > 0 and tokenizer != self._tokenizer)
        self._tokenizer = tokenizer
        self._ids.extend(delta.token_ids)
        self.tokens += len(delta.token_ids)
        self.given_out = self.given_out or bool(delta.text or delta.logprobs)
        if delta.text:
            self._pieces.append(delta.text)

    def message(self) -> inference_service_pb2.Emitted:
        """For the replica that goes on."""
        if self._is_mixed:
            return inference_service_pb2.Emitted(text=self.text)
        return inference_service_pb2.Emitted(token_ids=self._ids, tokenizer=self._tokenizer, text=self.text)
