"""Text to token ids and back, by the model's own byte-level BPE. Control tokens never come out of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from inference.vocabulary import Vocabulary

TokenIds = NDArray[np.int32]

# The threads of a batch take longer to wake than so few characters to encode.
_ALONE_CHARS_MAX: Final = 2_048


class Tokenizer:
    """A model's tokenizer, safe to use from any thread.

    No text encodes to one of the vocabulary's control tokens. A batch that goes to the tokenizer at once holds at most
    `batch_chars_max` characters, or one text.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary, batch_chars_max: int = 1 << 18) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._batch_chars_max = batch_chars_max
        self._bytes_of = _byte_level if vocabulary.byte_level else _sentence_piece
        self._control = control = dict(vocabulary.control)
        self._pieces = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")
        self._token_bytes: dict[int, bytes] = {index: name.encode() for name, index in control.items()}
        self._token_bytes.update(dict.fromkeys(vocabulary.silent_ids, b""))
        self.special_ids: Final = frozenset(control.values())

    def encode(self, text: str) -> TokenIds:
        """The ids of a text that is plain content, whatever it says."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text, in order. Releases the interpreter while it works."""
        if sum(map(len, texts)) <= _ALONE_CHARS_MAX:
            return [self.encode(text) for text in texts]
        return [
            np.asarray(each.ids, dtype=np.int32)
            for batch in self._batches(texts)
            for each in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        ]

    def special_id(self, token: str) -> int:
        """The id of a control token by its name, such as `<|im_start|>`; KeyError if there is none."""
        return self._control[token]

    def split(self, text: str) -> list[str | int]:
        """A template's text as plain pieces and the ids of the control tokens between them; one piece at least."""
        pieces: list[str | int] = []
        at = 0
        for found in self._pieces.finditer(text):
            pieces += [text[at : found.start()]] if found.start() > at else []
            pieces.append(self._control[found.group()])
            at = found.end()
        return [*pieces, text[at:]] if at < len(text) or not pieces else pieces

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes behind one id; none for a silent control token and for an id outside the vocabulary."""
        known = self._token_bytes.get(token_id)
        if known is None:
            known = self._token_bytes[token_id] = self._bytes_of(self._tokenizer.id_to_token(token_id) or "")
        return known

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        size = 0
        for text in texts:
            if batch and size + len(text) > self._batch_chars_max:
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += len(text)
        if batch:
            yield batch


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's map from characters to bytes: printable bytes stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF: Final = _byte_alphabet()
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level(token: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet. One that was added as a whole is spelt plainly."""
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _sentence_piece(token: str) -> bytes:
    """The bytes of a token in SentencePiece's spelling, which has U+2581 for a space and names lone bytes."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else token.replace("\u2581", " ").encode()
