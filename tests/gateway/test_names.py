"""Resource names are read back as they were written, and wrong ones are refused by field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import names
from services.errors import InvalidField

ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
numbers = st.integers(min_value=1, max_value=10**18 - 1)


@given(ids, numbers, ids)
def test_names_are_read_back(session: str, number: int, document: str) -> None:
    assert names.parse_session(names.session_name(session)) == session
    assert names.parse_turn(f"sessions/{session}/turns/{number}") == names.Numbered(session, number)
    assert names.parse_fragment(f"sessions/{session}/fragments/{number}") == names.Numbered(session, number)
    assert names.parse_document(f"sessions/{session}/documents/{document}") == names.DocumentId(session, document)


@pytest.mark.parametrize("name", ["", "s1", "sessions/", "sessions/A", "sessions/a/b", "sessions/a\n", "sessions/-a"])
def test_a_wrong_name_is_refused_with_its_field_and_what_was_expected(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        names.parse_session(name, "parent")
    assert [violation.field for violation in caught.value.fields] == ["parent"]
    assert "sessions/{session}" in caught.value.message


@pytest.mark.parametrize("name", ["sessions/a/turns/0", "sessions/a/turns/01", "sessions/a/turns/x", "sessions/a"])
def test_turns_are_numbered_from_one_on(name: str) -> None:
    with pytest.raises(InvalidField):
        names.parse_turn(name)
