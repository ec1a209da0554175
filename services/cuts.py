"""Where texts are cut: at ends of paragraphs, else of sentences, else of words, never within a character. Pure."""

from __future__ import annotations

# Tokens are estimated from UTF-8 bytes, on the safe side.
ESTIMATE_BYTES_PER_TOKEN = 3

_PARAGRAPH_ENDS = (b"\n\n", b"\n\r\n")
_SENTENCE_ENDS = (b". ", b"! ", b"? ", b".\n", b"!\n", b"?\n", *(mark.encode() for mark in "。\uff01\uff1f"))
_WORD_ENDS = (b"\n", b" ", b"\t")


def cut(data: bytes | bytearray, bytes_max: int) -> int:
    """Length in bytes of the first piece of `data`, which is longer than `bytes_max`.

    The last paragraph end in the second half of the bound, else sentence end, else word end, else character end. It
    depends on the first `bytes_max` bytes alone, so the cuts of a stream do not depend on how it was chunked.
    """
    low = bytes_max // 2
    for ends in (_PARAGRAPH_ENDS, _SENTENCE_ENDS, _WORD_ENDS):
        best = max(_end_of_last(data, end, low, bytes_max) for end in ends)
        if best:
            return best
    return _character_end(data, bytes_max)


def _end_of_last(data: bytes | bytearray, pattern: bytes, low: int, high: int) -> int:
    found = data.rfind(pattern, low, high)
    return found + len(pattern) if found >= 0 else 0


def _character_end(data: bytes | bytearray, position: int) -> int:
    end = position
    while end > position - 4 and data[end] & 0xC0 == 0x80:
        end -= 1
    # Four continuation bytes in a row are no UTF-8: the decoder will name the place, wherever the cut is.
    return end if end > 0 and data[end] & 0xC0 != 0x80 else position


def start_after(data: bytes | bytearray, low: int, high: int) -> int:
    """Where a piece may begin between `low` and `high`: behind a sentence's end, else a word's, else a character's."""
    if low >= high:
        return high
    for ends in (_PARAGRAPH_ENDS + _SENTENCE_ENDS, _WORD_ENDS):
        # An end that lies right before `low` counts, too.
        places = [data.find(end, max(0, low - len(end)), high) + len(end) for end in ends]
        best = min((place for place in places if low <= place <= high), default=0)
        if best:
            return best
    while low < high and data[low] & 0xC0 == 0x80:
        low += 1
    return low
