"""Fragments become items: the pieces of one message are one item again, in either direction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import fragment_pb2, message_pb2

from gateway.http.items import Grouping, items_of
from gateway.http.objects import Message

MESSAGE, REPLY, DOCUMENT = (
    fragment_pb2.FRAGMENT_KIND_MESSAGE,
    fragment_pb2.FRAGMENT_KIND_REPLY,
    fragment_pb2.FRAGMENT_KIND_DOCUMENT,
)
entries = st.lists(st.tuples(st.sampled_from([MESSAGE, REPLY, DOCUMENT]), st.lists(st.text(max_size=3), max_size=4)))


def log(texts: list[tuple[fragment_pb2.FragmentKind.ValueType, list[str]]]) -> list[fragment_pb2.Fragment]:
    """A session's log; an empty piece is one that was erased."""
    fragments: list[fragment_pb2.Fragment] = []
    for turn, (kind, pieces) in enumerate(texts, start=1):
        role = message_pb2.ROLE_ASSISTANT if kind == REPLY else message_pb2.ROLE_USER
        for part, text in enumerate(pieces):
            fragments.append(
                fragment_pb2.Fragment(
                    sequence=len(fragments) + 1, kind=kind, role=role, part=part, text=text, turn=turn
                )
            )
    return fragments


def group(
    fragments: Iterable[fragment_pb2.Fragment], descending: bool = False
) -> list[Sequence[fragment_pb2.Fragment]]:
    """All items of these fragments, each as its pieces."""
    grouping = Grouping(descending)
    complete = [grouping.add(fragment) for fragment in fragments]
    return [pieces for pieces in [*complete, grouping.close()] if pieces]


@given(entries)
def test_every_text_is_in_one_item_and_both_directions_agree(
    texts: list[tuple[fragment_pb2.FragmentKind.ValueType, list[str]]],
) -> None:
    fragments = log(texts)
    ascending = group(fragments)
    descending = group(reversed(fragments), descending=True)
    assert descending[::-1] == ascending
    assert [piece for pieces in ascending for piece in pieces] == [each for each in fragments if each.text]


def test_a_split_message_is_one_item_and_a_document_one_for_each_piece() -> None:
    fragments = log([(MESSAGE, ["a", "b"]), (REPLY, ["c", "d"]), (DOCUMENT, ["e", "f"])])
    items = [item for pieces in group(fragments) for item in items_of("s", pieces, None) if isinstance(item, Message)]
    assert [(item.id, item.role, item.content[0].text) for item in items] == [
        ("msg_s_1", "user", "ab"),
        ("msg_s_r2", "assistant", "cd"),
        ("msg_s_5", "user", "e"),
        ("msg_s_6", "user", "f"),
    ]
