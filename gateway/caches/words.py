"""A question as verification sees it: its words, and what of them alone makes it another question. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_WORD: Final = re.compile(r"[^\W_]*\d[^\W_]*(?:[.,:/]\d+)*%?|[^\W\d_]+(?:'[^\W\d_]+)?[+#]*|[^\w\s]")
_CONTRACTED: Final = {
    "what's": "what is", "who's": "who is", "how's": "how is", "where's": "where is", "when's": "when is",
    "it's": "it is", "that's": "that is", "there's": "there is", "let's": "let us", "i'm": "i am", "i've": "i have",
    "i'd": "i would", "i'll": "i will", "you're": "you are", "you've": "you have", "we're": "we are",
    "they're": "they are", "can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not",
    "ain't": "is not", "dont": "do not", "doesnt": "does not", "didnt": "did not", "cant": "can not",
    "whats": "what is", "hows": "how is", "im": "i am", "ive": "i have",
}  # fmt: skip
# Ways of asking the same thing, the longest first.
_PHRASES: Final = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\bwhat (?:is|are|will be|would be) (?:the |some |some of the |your |an? )?(?:best |good |easiest |possible |most effective |effective )*(?:ways?|methods?|steps?) (?:to|of|for|in which)\b", "how to"),
        (r"\bin (?:what|which) ways? (?:do|can|should|could|does|is|are)\b", "how to"),
        (r"\bhow (?:do|can|could|should|might|does) (?:i|you|we|one|someone|anyone|somebody|a person|people|they) (?:best |actually |really )*", "how to "),
        (r"\bwhat (?:should|can|could|must|do|would) (?:i|you|we|one|someone) (?:have to |need to )?do (?:to|in order to|so that i can)\b", "how to"),
        (r"\bhow (?:is|are) (?:it|there) possible\b", "how to"),
        (r"\bin order to\b", "to"),
        (r"\bhow come\b", "why"),
        (r"\bfor what reasons?\b", "why"),
        (r"\bwhat (?:is|are) the (?:main |real )?reasons? (?:for|behind|that|why|of)\b", "why"),
        (r"\bwhat makes\b", "why"),
        (r"\bis there (?:any |a )?way (?:i can |to |for me to |that i can )", "how to "),
        (r"\bis it (?:possible|ok|okay|allowed) (?:for me |for one )?to\b", "can i"),
        (r"\bwho(?:se)? (?:is|are) (?:considered|thought) (?:to be )?", "who is "),
        (r"\bunited states(?: of america)?\b|\bu\s?\.\s?s\s?\.\s?a\s?\.?|\bu\s?\.\s?s\s?\.", "usa"),
        (r"\bunited kingdom\b|\bu\s?\.\s?k\s?\.", "uk"),
    )
]  # fmt: skip
_MEANS: Final = {
    word: group[0]
    for group in (
        ("good", "best", "better", "great", "greatest", "top", "ideal", "nice", "excellent", "perfect", "finest"),
        ("way", "method", "approach", "mean", "technique", "step"), ("buy", "purchase"), ("begin", "start", "commence"),
        ("fast", "quick", "quickly", "rapidly", "soon", "asap", "immediately"), ("big", "large", "huge"),
        ("increase", "improve", "boost", "enhance", "raise", "develop", "strengthen"),
        ("reduce", "decrease", "lower", "lessen", "cut"), ("picture", "photo", "image", "pic", "photograph"),
        ("film", "movie"), ("job", "career", "work"), ("kid", "child", "children"), ("guy", "man", "men"),
        ("girl", "woman", "women", "lady"), ("earn", "make"), ("cash", "money"), ("phone", "smartphone", "mobile", "cellphone"),
        ("usa", "us", "america", "american"), ("india", "indian"), ("get", "obtain", "receive", "gain", "acquire"),
        ("difference", "differ", "different", "distinction"), ("happen", "occur", "take place"), ("advice", "tip", "suggestion"),
        ("important", "importance", "significance", "significant"), ("benefit", "advantage", "pro"),
        ("disadvantage", "drawback", "con"), ("remove", "delete", "erase", "rid"), ("stop", "quit", "end"),
        ("think", "opinion", "view", "thought"), ("book", "novel"), ("smart", "intelligent", "clever"),
        ("proof", "evidence"), ("create", "build", "design"), ("sex", "intercourse"), ("weight", "fat"), ("uk", "britain", "british"),
        ("fix", "repair", "solve"), ("quick", "easy", "easily", "simple"), ("study", "learn"), ("word", "term"),
        ("website", "site", "webpage"), ("person", "people", "someone", "anyone", "everyone", "human"),
        ("real", "actual", "true", "truly", "really", "actually"), ("employee", "worker", "staff"), ("college", "university"),
        ("company", "firm", "startup"), ("country", "nation"), ("beautiful", "attractive", "pretty"), ("ban", "demonetization"),
        ("account", "profile"), ("cost", "price", "fee", "charge"), ("transfer", "send"), ("arrive", "come"),
        ("cancel", "abort"), ("lose", "lost", "missing", "misplace"), ("steal", "stolen"), ("wrong", "incorrect", "mistake", "error"),
        ("verify", "confirm", "validate"), ("topup", "top-up"), ("declined", "rejected", "denied", "refused", "decline", "reject", "deny", "refuse"),
    )
    for word in group
}  # fmt: skip
_FUNCTION: Final = frozenset(
    """a an the of in on at by for to with from as into about over under between through during against and or but if
    then so because while is are was were be been being am do does did done have has had having will would shall should
    can could may might must i me my mine myself you your yours yourself we us our ours ourselves they them their theirs
    he him his she her hers it its this that these those there here some any such very too also just please
    what which who whom whose when where why how s t d ll re ve m possible someone anyone one thing way
    really actually hi hello thanks thank""".split()
)
_ASKS: Final = {"whom": "who", "which": "what"} | {w: w for w in ("how", "why", "when", "where", "who", "whose", "what")}
_MEASURES: Final = frozenset(("many", "much", "long", "old", "often", "far", "big", "tall", "good", "bad", "fast", "soon"))
_AUXILIARIES: Final = frozenset("is are was were am do does did can could will would should shall may must has have had".split())
_OPENERS: Final = frozenset(("and", "but", "so", "or", "hi", "hello", "hey", "please", "also"))
_NEGATIONS: Final = frozenset(("not", "no", "never", "none", "nobody", "nothing", "without", "neither", "nor", "unable", "un"))
_MODALS: Final = {
    "can": "can", "could": "can", "may": "can", "might": "can", "should": "should", "must": "should", "shall": "should",
    "will": "will", "would": "would", "did": "past", "was": "past", "were": "past", "had": "past",
}  # fmt: skip
_PERSONS: Final = {
    **dict.fromkeys(("i", "me", "my", "mine", "myself", "we", "us", "our"), "i"),
    **dict.fromkeys(("you", "your", "yours", "yourself"), "you"),
    **dict.fromkeys(("he", "him", "his"), "he"), **dict.fromkeys(("she", "her", "hers"), "she"),
    **dict.fromkeys(("they", "them", "their"), "they"),
}  # fmt: skip
_DEGREES: Final = frozenset(("best", "worst", "most", "least", "top", "greatest", "easiest", "fastest", "biggest", "largest",
    "smallest", "highest", "lowest", "cheapest", "hardest", "only", "first", "last", "next", "latest"))  # fmt: skip
# Words of place and direction, which are no content and change it.
_RELATIONS: Final = frozenset("in on at up out off from without before after between against over under above below off into during until since per than versus vs via except by about".split())
# What is asked about lies outside of the text: a picture, the line above, the day on which it is asked.
_POINTS_OUT: Final = re.compile(
    r"\b(?:this|these|the following|the above|following|attached|below|above)\b(?! (?:year|month|week|morning))|\b(?:today|tonight|tomorrow|yesterday|right now|at the moment|currently|latest|recent|recently|this (?:year|month|week|morning)|last (?:night|week|month|year))\b"
)
_NUMBERS: Final = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
        " eighteen nineteen twenty".split()
    )
    if number > 1
} | {"hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "half": "0.5", "twice": "2"}
# Words of which one is the other's opposite, or another one of the same kind: with one for the other, another question.
_OPPOSITES: Final = frozenset(
    frozenset(pair.split("/"))
    for pair in """
    advantage/disadvantage benefit/disadvantage pro/con good/bad good/worst big/small high/low increase/reduce fast/slow
    man/girl boy/girl male/female husband/wife father/mother brother/sister son/daughter he/she before/after
    open/close begin/stop buy/sell lend/borrow give/take send/receive transfer/receive get/transfer import/export gain/lose win/lose love/hate
    old/new young/old hot/cold left/right up/down north/south east/west early/late first/last rich/poor easy/hard
    good/hard easy/difficult quick/slow cheap/expensive safe/dangerous legal/illegal true/false possible/impossible like/dislike
    add/remove enable/disable activate/deactivate activate/block block/unblock lock/unlock install/uninstall hire/fire accept/declined
    pass/fail create/remove day/night morning/evening summer/winter beginner/advanced public/private
    lead/follow inside/outside online/offline deposit/withdraw credit/debit physical/virtual increase/lose
    weekly/daily daily/monthly monthly/yearly minimum/maximum male/girl start/end encode/decode encrypt/decrypt
    live/die alive/dead marry/divorce introvert/extrovert employer/employee teacher/student doctor/patient android/iphone
    upgrade/downgrade upload/download login/logout push/pull refund/charge visa/mastercard apple/google""".split()
)


@dataclass(frozen=True, slots=True)
class Question:
    """What two questions are compared by. `content` is in the order of the text; sets are of stems."""

    tokens: tuple[str, ...]
    content: tuple[str, ...]
    numbers: frozenset[str]
    names: frozenset[str]
    asks: str
    is_negated: bool
    modals: frozenset[str]
    persons: frozenset[str]
    degrees: frozenset[str]
    relations: tuple[str, ...]
    points_out: bool


@lru_cache(maxsize=4_096)
def question(text: str) -> Question:
    """The question in a text; the longer ones cost their length."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    names = _names(text)
    flat = " ".join(_CONTRACTED.get(word, word) for word in text.lower().replace("n't", " not").split())
    asked = flat
    for pattern, by in _PHRASES:
        asked = pattern.sub(by, asked)
    words = [word for word in _WORD.findall(asked) if word[0].isalnum()]
    plain = [word for word in _WORD.findall(flat) if word[0].isalnum()]
    # At the end it is the verb itself: what a thing does is not what it is.
    acts = [words[-1]] if words and words[-1] in ("do", "does") else []
    numbers = [_NUMBERS.get(word, word) for word in words if _has_digit(word) or word in _NUMBERS]
    content = [_stem(word) for word in words if word not in _FUNCTION and word not in _NUMBERS and not _has_digit(word)]
    return Question(
        tokens=tuple(words),
        content=tuple(word for word in [*content, *acts] if word),
        numbers=frozenset(numbers),
        names=names,
        asks=_asks(words),
        is_negated=sum(word in _NEGATIONS for word in plain) % 2 == 1,
        modals=frozenset(_MODALS[word] for word in words if word in _MODALS),
        persons=frozenset(_PERSONS[word] for word in words if word in _PERSONS),
        degrees=frozenset(word for word in plain if word in _DEGREES),
        relations=tuple(sorted(word for word in words if word in _RELATIONS)),
        points_out=_POINTS_OUT.search(flat) is not None,
    )


def opposed(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether a word on one side is the opposite of one on the other; words without those that both sides have."""
    return any(frozenset((left, right)) in _OPPOSITES for left in one for right in other)


def _asks(words: Sequence[str]) -> str:
    """The kind of the first question: its question word, with what it measures, or `whether`; empty for none."""
    for at, word in enumerate(words):
        if word == "how" and at + 1 < len(words) and words[at + 1] in _MEASURES:
            return f"how {words[at + 1]}"
        if word in _ASKS:
            return _ASKS[word]
        if word in _AUXILIARIES and (at == 0 or words[at - 1] in _OPENERS):
            return "whether"
    return ""


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _names(text: str) -> frozenset[str]:
    """Words with a capital that does not begin a sentence, or with one inside; stems of them."""
    found = []
    begins = True
    words = _WORD.findall(text)
    # In a text all of capitals they say nothing.
    loud = sum(word.isupper() for word in words) > len(words) / 2
    for word in words:
        if not word[0].isalnum():
            begins = begins or word in ".?!:"
            continue
        inner = word[1:] != word[1:].lower()
        if not loud and word[0].isalpha() and (inner or (word[0].isupper() and not begins)) and word.lower() not in _FUNCTION:
            found.append(_stem(word.lower()))
        begins = False
    return frozenset(found)


def _stem(word: str) -> str:
    """The word without its commonest endings, and the first word of its group if it has one."""
    word = _MEANS.get(word.removesuffix("'s"), word.removesuffix("'s"))
    for ending, by, length in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= length:
            word = word[: len(word) - len(ending)] + by
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeosl":
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 4 else word
    return _GROUP_STEMS.get(word, word)


_ENDINGS: Final = (("ies", "y", 2), ("sses", "ss", 1), ("ches", "ch", 2), ("shes", "sh", 2), ("xes", "x", 2), ("ing", "", 3), ("edly", "", 3), ("ied", "y", 2),
    ("ed", "", 3), ("ss", "ss", 1), ("us", "us", 1), ("is", "is", 1), ("s", "", 2), ("ly", "", 4))  # fmt: skip
_GROUP_STEMS: dict[str, str] = {}
_GROUP_STEMS |= {_stem(word): _stem(first) for word, first in _MEANS.items()}
