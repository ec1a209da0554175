"""Pages of items, read from the log as far as the page needs it and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.session.v1 import fragment_pb2

from gateway.http.edge import Edge
from gateway.http.errors import missing
from gateway.http.ids import MessageId, parse_message
from gateway.http.items import Grouping, item_of
from gateway.http.objects import ItemList, Message
from gateway.http.query import Order

# Fragments asked for at a time when one item is wanted: most have one, some a few.
_ONE_ITEM = 4
Pieces = Sequence[fragment_pb2.Fragment]


@dataclass(frozen=True, slots=True)
class Span:
    """A range of sequence numbers; `last` 0 means to the log's end."""

    first: int = 1
    last: int = 0

    def __contains__(self, sequence: int) -> bool:
        return sequence >= self.first and (not self.last or sequence <= self.last)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which items, how many at most, and after which one."""

    limit: int
    order: Order
    after: str | None


@dataclass(slots=True)
class _Found:
    """Items read so far, and whether the range holds no more."""

    items: list[Message]
    size: int = 0
    is_exhausted: bool = False


async def list_items(edge: Edge, session: str, query: PageQuery, span: Span) -> ItemList:
    """A page of items; it ends early where their text passes `gateway.http_page_bytes_max`."""
    descending = query.order == "desc"
    start = span.last if descending else span.first
    if query.after is not None:
        anchor = await _anchor(edge, session, query.after, span)
        # Ascending, the anchor itself is read again, because only its pieces tell where the next item starts.
        start = anchor - 1 if descending else anchor
        if start < span.first:
            return page([])
    found = await _read(edge, session, span, start, query)
    return page(found.items[: query.limit], has_more=len(found.items) > query.limit or not found.is_exhausted)


def page(items: list[Message], has_more: bool = False) -> ItemList:
    """The items as OpenAI's list."""
    return ItemList(
        data=items,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


async def read_item(edge: Edge, session: str, item_id: str) -> Pieces:
    """The pieces of one item; NOT_FOUND if the session has none of this id."""
    name = parse_message(item_id, "item_id")
    start = await _sequence_of(edge, session, name)
    grouping = Grouping(descending=False)
    token = ""
    while start:
        fragments, token = await _fragments(edge, session, start, token, descending=False, page_size=_ONE_ITEM)
        for pieces in (grouping.add(fragment) for fragment in fragments):
            if pieces:
                return _checked(session, pieces, item_id)
        if not token:
            return _checked(session, grouping.close(), item_id)
    raise missing("item_id", item_id)


def _checked(session: str, pieces: Pieces, item_id: str) -> Pieces:
    if not pieces or item_of(session, pieces).id != item_id:
        raise missing("item_id", item_id)
    return pieces


async def _anchor(edge: Edge, session: str, after: str, span: Span) -> int:
    sequence = await _sequence_of(edge, session, parse_message(after, "after"))
    if sequence not in span:
        raise missing("after", after)
    return sequence


async def _sequence_of(edge: Edge, session: str, name: MessageId) -> int:
    """The first sequence number of an item of this session, 0 where there is none."""
    if name.session != session:
        return 0
    if not name.is_reply:
        return name.number
    turn = await edge.backend.get_turn(edge.tenant, session, name.number)
    return turn.first_output_sequence


async def _read(edge: Edge, session: str, span: Span, start: int, query: PageQuery) -> _Found:
    descending = query.order == "desc"
    grouping = Grouping(descending)
    found = _Found([])
    token = ""
    while not found.is_exhausted:
        fragments, token = await _fragments(edge, session, start, token, descending, query.limit + 2)
        inside = [fragment for fragment in fragments if fragment.sequence in span]
        found.is_exhausted = not token or len(inside) < len(fragments)
        complete = [grouping.add(fragment) for fragment in inside]
        if found.is_exhausted:
            complete.append(grouping.close())
        if not _fits(edge, session, query, found, complete):
            break
    return found


def _fits(edge: Edge, session: str, query: PageQuery, found: _Found, complete: list[Pieces]) -> bool:
    """Adds what is complete; False once the page is full, with one item beyond it to tell that there is more."""
    for pieces in filter(None, complete):
        if len(found.items) > query.limit or found.size >= edge.settings.http_page_bytes_max:
            found.is_exhausted = False
            return False
        item = item_of(session, pieces)
        if item.id != query.after:
            found.items.append(item)
            found.size += sum(len(piece.text) for piece in pieces)
    return True


async def _fragments(
    edge: Edge, session: str, start: int, token: str, descending: bool, page_size: int
) -> tuple[Pieces, str]:
    found = await edge.backend.list_fragments(
        edge.tenant, session, page_size=page_size, page_token=token, descending=descending, start_sequence=start
    )
    return found.fragments, found.next_page_token
