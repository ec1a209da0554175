"""What comes out of the checks is what is kept, and what is kept comes out of them again: with stand-ins for models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.turn.budget import Budget, ModelLimits
from gateway.turn.calls import Errand, Reply
from gateway.turn.receipt import Ledger
from gateway.validation.anew import resampled
from gateway.validation.checks import Checks
from gateway.validation.filter import Action, Filter
from gateway.validation.forbidden import Forbidden
from gateway.validation.personal import CHECK
from gateway.validation.serving import CheckedReply
from services.config import ValidationSettings
from services.errors import IsthmusError
from tests.gateway.validation.test_filter import CUTS, TEXTS

Piece = context_service_pb2.OutputPiece
WORDS = ["blue moon", "moon"]
LIMITS = ModelLimits("m", b"", 1000, 10, 100)


class Served:
    """A reply that is there, in pieces, as ServedReply gives it; what is kept of it."""

    finished_hops: Sequence[turn_pb2.Hop] = ()
    output_tokens = 1

    def __init__(self, *texts: str, cuts: Sequence[int] = ()) -> None:
        self.tries = list(texts)
        self.cuts = cuts
        self.kept: str | None = None

    async def begin(self, _: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        return []

    def resume(self, _: Sequence[Piece]) -> None:
        """Nothing was said before."""

    async def events(self) -> AsyncGenerator[Piece, None]:
        text = self.tries[0]
        places = [0, *sorted(min(cut, len(text)) for cut in self.cuts), len(text)]
        for one, other in pairwise(places):
            yield Piece(text=text[one:other])

    def reply(self) -> Reply:
        return Reply(self.tries[0], turn_pb2.FINISH_REASON_STOP, ())

    def anew(self, _: object) -> None:
        del self.tries[0]

    def close(self) -> None:
        """Nothing goes on."""

    async def committed(self, _: str, read: Reply) -> None:
        self.kept = read.text


def errand() -> Errand:
    """A turn without anything that checks look at."""
    request = session_service_pb2.RunTurnRequest(request_id="r1")
    return Errand("t", "s", request, "r1", b"", "d", None, LIMITS, Budget(1, 1), 0.0, float("inf"))


def read(served: Served, **validation: Any) -> str:
    """What a client reads of it, after which it is committed. Raises what its turn fails with."""
    checks = Checks(ValidationSettings(forbidden_words=WORDS, **validation))
    checked = CheckedReply(
        cast("Any", served), cast("Any", lambda _: None), errand(), cast("Any", None), Ledger(0.0), checks
    )

    async def run() -> str:
        await checked.begin(window_pb2.Manifest())
        text = "".join([event.text async for event in checked.events() if isinstance(event, Piece)])
        assert checked.reply().text in (text, served.tries[0])
        await checked.committed("sessions/s/turns/1")
        return text

    return asyncio.run(run())


def filtered(text: str) -> tuple[str, int]:
    """The text with all finds redacted, and how many there are."""
    through = Filter([(CHECK, Action.REDACT), (Forbidden(WORDS), Action.REDACT)])
    out = through.feed(text) + through.finish()
    return out, sum(through.found.values())


@given(TEXTS, CUTS, st.sampled_from(["redact", "flag"]))
def test_what_is_kept_is_what_was_read_and_is_checked_again_when_it_is_given(
    text: str, cuts: list[int], first: str
) -> None:
    served = Served(text, cuts=cuts)
    out = read(served, personal_data=first, forbidden=first)
    assert served.kept == out == (filtered(text)[0] if first == "redact" else text)
    # Given by a gateway that redacts, whatever the one did that kept it.
    assert read(Served(out, cuts=cuts), personal_data="redact", forbidden="redact") == filtered(out)[0]


@given(TEXTS, CUTS, st.sampled_from(["block", "retry"]))
@example("Write to ada@example.org", [], "retry")
def test_no_answer_is_given_or_kept_that_has_what_is_blocked(text: str, cuts: list[int], action: str) -> None:
    served = Served(text, text, text, cuts=cuts)
    if not filtered(text)[1]:
        assert read(served, personal_data=action, forbidden=action) == text
        return
    with pytest.raises(IsthmusError, match="the check"):
        read(served, personal_data=action, forbidden=action)
    assert served.kept is None


def test_a_try_that_is_refused_leaves_nothing_behind() -> None:
    served = Served("The blue moon is out", "It is ada@example.org", "Nothing is out")
    assert read(served, personal_data="redact", forbidden="retry") == "It is [email]"
    served = Served("The blue moon is out", "It is ada@example.org", "Nothing is out")
    assert read(served, personal_data="retry", forbidden="retry") == "Nothing is out" == served.kept


def test_what_stays_for_want_of_a_better_one_is_read_and_not_kept() -> None:
    served = Served("A blue moon", "A moon")
    assert read(served, forbidden="retry", retries_count_max=1, retries_over="flag") == "A moon"
    assert served.kept is None
    served = Served("A blue moon", "A moon")
    assert read(served, forbidden="retry", retries_count_max=1, retries_over="redact") == "A [word]"


def test_each_try_is_sampled_by_a_seed_of_its_own_and_the_same_one_by_every_driver() -> None:
    one = errand()
    one.request.params.temperature = 0
    seeds = [resampled(one, number, 0.7).request.params.seed for number in (1, 2, 3)]
    assert len(set(seeds)) == 3
    assert resampled(one, 1, 0.7).request.params.seed == seeds[0]
    assert resampled(one, 1, 0.7).request.params.temperature == pytest.approx(0.7)
    one.request.params.temperature = 1.5
    assert resampled(one, 1, 0.7).request.params.temperature == 1.5
    assert not resampled(errand(), 1, 0.7).request.params.HasField("temperature")
    assert not one.request.params.HasField("seed")
