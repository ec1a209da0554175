"""Pages of items, read from the log as far as the page needs it and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.session.v1 import fragment_pb2

from gateway.http.edge import Edge
from gateway.http.errors import missing
from gateway.http.ids import MessageId, parse_message
from gateway.http.items import Grouping, items_of, may_call
from gateway.http.objects import Item, ItemList
from gateway.http.query import Order
from gateway.http.tools.items import tools_of

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

    items: list[Item]
    size: int = 0
    is_exhausted: bool = False
    # The first sequence number of what the page starts after, 0 for the range's end.
    anchor: int = 0


async def list_items(edge: Edge, session: str, query: PageQuery, span: Span) -> ItemList:
    """A page of items; it ends early where their text passes `gateway.http_page_bytes_max`."""
    descending = query.order == "desc"
    start = span.last if descending else span.first
    anchor = 0
    if query.after is not None:
        # The anchor is read again: only its pieces tell where the next item starts, and a reply may have several.
        anchor, last = await _anchor(edge, session, query.after, span)
        start = last if descending else anchor
    found = await _read(edge, session, span, start, query, anchor)
    return page(found.items[: query.limit], has_more=len(found.items) > query.limit or not found.is_exhausted)


def page(items: Sequence[Item], has_more: bool = False) -> ItemList:
    """The items as OpenAI's list."""
    return ItemList(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


async def read_item(edge: Edge, session: str, item_id: str) -> tuple[Item, Pieces]:
    """One item, and the pieces of the message or reply that it is in; NOT_FOUND if the session has none of this id."""
    name = parse_message(item_id, "item_id")
    start, _ = await _sequences_of(edge, session, name)
    grouping = Grouping(descending=False)
    token = ""
    while start:
        fragments, token = await _fragments(edge, session, start, token, descending=False, page_size=_ONE_ITEM)
        for pieces in (grouping.add(fragment) for fragment in fragments):
            if pieces:
                return await _one(edge, session, pieces, item_id)
        if not token:
            return await _one(edge, session, grouping.close(), item_id)
    raise missing("item_id", item_id)


async def _one(edge: Edge, session: str, pieces: Pieces, item_id: str) -> tuple[Item, Pieces]:
    for item in await _items(edge, session, pieces) if pieces else ():
        if item.id == item_id:
            return item, pieces
    raise missing("item_id", item_id)


async def _items(edge: Edge, session: str, pieces: Pieces) -> list[Item]:
    """The items of these pieces; what of a reply is a call stands in its turn."""
    if not may_call(pieces):
        return items_of(session, pieces, None)
    turn = await edge.backend.get_turn(edge.tenant, session, pieces[0].turn)
    return items_of(session, pieces, tools_of(turn.params))


async def _anchor(edge: Edge, session: str, after: str, span: Span) -> tuple[int, int]:
    first, last = await _sequences_of(edge, session, parse_message(after, "after"))
    if first not in span:
        raise missing("after", after)
    return first, last


async def _sequences_of(edge: Edge, session: str, name: MessageId) -> tuple[int, int]:
    """Where an item of this session begins, 0 where there is none, and where to read it from its end."""
    if name.session != session:
        return 0, 0
    if not name.is_reply:
        return name.number, name.number
    turn = await edge.backend.get_turn(edge.tenant, session, name.number)
    return turn.first_output_sequence, turn.last_output_sequence


async def _read(edge: Edge, session: str, span: Span, start: int, query: PageQuery, anchor: int) -> _Found:
    descending = query.order == "desc"
    grouping = Grouping(descending)
    found = _Found([], anchor=anchor)
    token = ""
    while not found.is_exhausted:
        fragments, token = await _fragments(edge, session, start, token, descending, query.limit + 2)
        inside = [fragment for fragment in fragments if fragment.sequence in span]
        found.is_exhausted = not token or len(inside) < len(fragments)
        complete = [grouping.add(fragment) for fragment in inside]
        if found.is_exhausted:
            complete.append(grouping.close())
        if not await _fits(edge, session, query, found, complete):
            break
    return found


async def _fits(edge: Edge, session: str, query: PageQuery, found: _Found, complete: list[Pieces]) -> bool:
    """Adds what is complete; False once the page is full, with one item beyond it to tell that there is more."""
    for pieces in filter(None, complete):
        if len(found.items) > query.limit or found.size >= edge.settings.http_page_bytes_max:
            found.is_exhausted = False
            return False
        items = await _items(edge, session, pieces)
        if query.order == "desc":
            items.reverse()
        if pieces[0].sequence == found.anchor:
            items = _after(items, query.after or "")
        found.items += items
        found.size += sum(len(piece.text) for piece in pieces)
    return True


def _after(items: list[Item], after: str) -> list[Item]:
    ids = [item.id for item in items]
    if after not in ids:
        raise missing("after", after)
    return items[ids.index(after) + 1 :]


async def _fragments(
    edge: Edge, session: str, start: int, token: str, descending: bool, page_size: int
) -> tuple[Pieces, str]:
    found = await edge.backend.list_fragments(
        edge.tenant, session, page_size=page_size, page_token=token, descending=descending, start_sequence=start
    )
    return found.fragments, found.next_page_token
