"""What a reply is looked through for, while it comes: found whole, and the same however the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.validation.check import Check
from gateway.validation.filter import Action, Blocked, Filter
from gateway.validation.forbidden import Forbidden, problem_of
from gateway.validation.personal import CHECK as PERSONAL

PIECES = st.sampled_from(
    [
        "ada@example.org",
        "a.b+c@mail.example.co.uk",
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "DE89 3704 0044 0532 0130 01",
        "4111 1111 1111 1111",
        "4111111111111112",
        "123-45-6789",
        "192.168.0.1",
        "2001:db8::1",
        "12:30:45",
        "+49 30 1234567",
        "(212) 555-0123",
        "2026-11-21",
        "the blue moon",
        "Blue",
        " ",
        ".",
        ", and ",
        "x",
        "@",
        "1",
        "AND ",
        "\n",
        "ß",
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text("aA1.@+-: ()", max_size=80)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def run(text: str, cuts: list[int], action: Action = Action.REDACT) -> tuple[str, dict[tuple[str, str], int]]:
    """The text through the filter, cut at these places."""
    checks: list[tuple[Check, Action]] = [(PERSONAL, action), (Forbidden(["blue moon", "moon"]), action)]
    through = Filter(checks)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    out = "".join(through.feed(text[one:other]) for one, other in pairwise(places))
    return out + through.finish(), dict(through.found)


@given(TEXTS, CUTS)
@example("ada@example.org", list(range(20)))
@example("IBAN DE89 3704 0044 0532 0130 00 AND SO ON", list(range(50)))
def test_what_comes_out_does_not_depend_on_the_cutting(text: str, cuts: list[int]) -> None:
    assert run(text, cuts) == run(text, [])
    assert run(text, list(range(len(text)))) == run(text, [])


@given(TEXTS, CUTS)
def test_what_is_flagged_is_let_through_as_it_is(text: str, cuts: list[int]) -> None:
    assert run(text, cuts, Action.FLAG) == (text, run(text, [])[1])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to ada@example.org.", "Write to [email]."),
        ("To DE89 3704 0044 0532 0130 00 AND soon", "To [iban] AND soon"),
        ("To DE89 3704 0044 0532 0130 01 soon", "To DE89 3704 0044 0532 0130 01 soon"),
        ("Card 4111 1111 1111 1111, please", "Card [card], please"),
        ("Card 4111 1111 1111 1112, please", "Card 4111 1111 1111 1112, please"),
        ("SSN 123-45-6789; not 000-45-6789", "SSN [us_ssn]; not 000-45-6789"),
        ("From 10.0.0.255 at 12:30:45 by 2001:db8::1", "From [ip_address] at 12:30:45 by [ip_address]"),
        ("Call +49 30 1234567 or (212) 555-0123", "Call [phone] or [phone]"),
        ("On 2026-11-21, version 1.2.3", "On 2026-11-21, version 1.2.3"),
        ("Once in a Blue Moon, at moonlight", "Once in a [word], at moonlight"),
    ],
)
def test_what_is_found_and_what_only_looks_like_it(text: str, redacted: str) -> None:
    assert run(text, [])[0] == redacted


def test_what_is_blocked_is_never_given_out() -> None:
    through = Filter([(PERSONAL, Action.BLOCK)])
    given_out = through.feed("Write to ada@exam")
    with pytest.raises(Blocked) as blocked:
        given_out += through.feed("ple.org or not")
    assert blocked.value.match.kind == "email"
    assert given_out == "Write to "


def test_a_word_is_all_that_is_held_back_of_plain_text() -> None:
    through = Filter([(PERSONAL, Action.REDACT)])
    assert through.feed("The narrow way leads") == "The narrow way "
    assert through.feed(" home") == "leads "
    assert through.finish() == "home"


@pytest.mark.parametrize("pattern", ["a+", "(a{1,9}){1,9}", r"(a)\1", "(?=a)b", "^a", "(", "a{0,5}", "x" * 201])
def test_patterns_that_have_no_bound_or_could_take_forever_are_refused(pattern: str) -> None:
    assert problem_of(pattern)
    with pytest.raises(ValueError, match=r"expected|expression"):
        Forbidden([], [pattern])


@given(st.text("abk-12 ", max_size=40), CUTS)
def test_patterns_of_the_settings_are_found_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    def through(places: list[int]) -> str:
        one = Filter([(Forbidden([], ["k-[0-9]{1,4}", "ab{1,3}"]), Action.REDACT)])
        edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
        return "".join(one.feed(text[a:b]) for a, b in pairwise(edges)) + one.finish()

    assert through(cuts) == through([])
