"""Page tokens come back to the list that issued them, and to no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from context_store.session.page_tokens import PageTokenError, read, write

words = st.text(max_size=40)


@given(words, words)
def test_a_token_says_its_position(scope: str, position: str) -> None:
    assert read(write(scope, position), scope) == position


@given(words, words, words)
def test_a_token_of_another_list_is_refused(scope: str, other: str, position: str) -> None:
    if scope != other:
        with pytest.raises(PageTokenError):
            read(write(scope, position), other)


@given(st.text(min_size=1, max_size=60))
def test_rubbish_is_refused(token: str) -> None:
    with pytest.raises(PageTokenError):
        read(token, "sessions/acme")


def test_no_token_is_the_first_page() -> None:
    assert read("", "anything") == ""
