"""Text of an exact number of tokens, the same for every run and every system that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Final

# In a GPT-2 style BPE each of these, with the space before it, is one token; so are the full stop and the newline.
# The short ones come more often, which makes a token as long as in English prose: about 4.5 bytes.
_LONG: Final = """
harbour garden window letter winter summer morning evening river mountain valley bridge market station engine doctor
teacher farmer sailor writer painter captain soldier student village castle forest island desert meadow street corner
kitchen table chair candle mirror basket bottle ladder hammer needle button pocket jacket ribbon blanket pillow carpet
copper silver golden purple yellow orange scarlet bright gentle quiet sudden narrow hollow distant ancient modern
carries follows crosses reaches returns watches gathers answers measures counts divides repairs delivers receives
protects promises remembers describes considers discovers explains improves includes prepares produces provides
"""
_SHORT: Final = """
the of and to in is it was for on as at by he she we you they had has not but all one two can may if so up out no who
what when then them its our an be are or his her that this from with will
"""
_WORDS_PER_SENTENCE: Final = 14


def text(tokens: int, seed: int) -> str:
    """A text of exactly `tokens` tokens: sentences of 14 words, a full stop and a newline; the last one may be cut."""
    return "".join(islice(_tokens(seed), tokens))


def delta(number: int) -> str:
    """What the client says in turn `number`: always the same length."""
    return f"Please answer question {number:06d} from what was said above, in a few words."


def _tokens(seed: int) -> Iterator[str]:
    random = Random(seed)  # noqa: S311
    words = [f" {word}" for word in (*_LONG.split(), *_SHORT.split() * 4)]
    while True:
        yield from random.choices(words, k=_WORDS_PER_SENTENCE)
        yield "."
        yield "\n"
