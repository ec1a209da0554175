"""How right the critic is by words alone: what people wrote of meetings, held against what was said there.

    python -m benchmarks.critic --data FOLDER

FOLDER has QMSum's validation half, `val/*.json`. The bounds of `services/claims/judge.py` were chosen on its first ten
meetings; the others are judged. `own` are people's answers on the meeting, in their own words; `other` those on another
one; `copied` are sentences of the meeting, `numbers` such with one of their numbers changed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from services.claims.judge import Claims, Verdict

CHOSEN_ON: Final = 10
_FAR: Final = 7
_EACH: Final = 10
_END: Final = re.compile(r"(?<=[.!?]) ")
_NUMBER: Final = re.compile(r"\b(two|three|four|five|six|ten|twelve|twenty)\b")


def main() -> None:
    """Prints a line of figures for each kind of claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    meetings = [json.loads(file.read_text()) for file in sorted(parser.parse_args().data.glob("val/*.json"))]
    counts: dict[str, Counter[Verdict]] = {}
    for place in range(CHOSEN_ON, len(meetings)):
        said = [(each["speaker"], each["content"]) for each in meetings[place]["meeting_transcripts"]]
        for kind, reply in _replies(meetings, place, said):
            texts = [f"{who}: {text}" for who, text in said]
            counts.setdefault(kind, Counter()).update(judged(reply, texts))
    for kind, found in counts.items():
        shares = ", ".join(f"{each.name.lower()} {found[each] / found.total():.3f}" for each in Verdict)
        print(f"{kind:8} {found.total():5} claims: {shares}")


def judged(reply: str, texts: Sequence[str]) -> list[Verdict]:
    """The verdicts on a reply that was made from these texts."""
    claims = Claims(reply, 1_000)
    for sequence, text in enumerate(texts, start=1):
        claims.read(text, sequence)
    return [each.verdict for each in claims.judged()]


def _replies(meetings: Sequence[Any], place: int, said: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    yield "own", _answers(meetings[place])
    yield "other", _answers(meetings[(place + _FAR) % len(meetings)])
    sentences = [sentence for _, text in said for sentence in _END.split(text) if len(sentence.split()) > _EACH]
    yield "copied", "\n".join(sentences[:: max(1, len(sentences) // _EACH)][:_EACH])
    numbered = [_NUMBER.sub("nineteen", each) for each in sentences if _NUMBER.search(each)]
    yield "numbers", "\n".join(numbered[:_EACH])


def _answers(meeting: Any) -> str:
    return " ".join(each["answer"] for each in meeting["specific_query_list"][:3])


if __name__ == "__main__":
    main()
