"""Digests: equal for equal content, whoever computes them, and never by accident."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import fragment_pb2

from services.digest import EMPTY, chain, fragment_digest, item_digest, source_digest

contents = st.tuples(st.integers(1, 4), st.integers(1, 4), st.text(max_size=5), st.integers(0, 9), st.text(max_size=5))


@given(contents, contents)
def test_only_equal_contents_have_equal_digests(
    one: tuple[int, int, str, int, str], other: tuple[int, int, str, int, str]
) -> None:
    assert (fragment_digest(*one) == fragment_digest(*other)) == (one == other)


@given(contents)
def test_an_item_has_its_fragments_digest(content: tuple[int, int, str, int, str]) -> None:
    kind, role, author, part, text = content
    item = window_pb2.WindowItem(author=author, part=part, text=text, first_sequence=7, tokens=9)
    item.kind, item.role = kind, role  # type: ignore[assignment]
    assert item_digest(item) == fragment_digest(*content)


def test_the_numbers_of_both_enums_agree() -> None:
    for name in ("MESSAGE", "REPLY", "DOCUMENT"):
        kind: int = fragment_pb2.FragmentKind.Value(f"FRAGMENT_KIND_{name}")
        shown: int = window_pb2.WindowItemKind.Value(f"WINDOW_ITEM_KIND_{name}")
        assert kind == shown


def test_chains_and_sources_are_the_contracts() -> None:
    one, two = fragment_digest(1, 2, "", 0, "a"), fragment_digest(1, 2, "", 0, "b")
    assert chain(EMPTY, one) == blake2b(bytes(16) + one, digest_size=16).digest()
    assert source_digest([one, two]) == blake2b(one + two, digest_size=16).digest()
    assert source_digest([]) == blake2b(digest_size=16).digest()
