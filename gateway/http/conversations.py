"""`/v1/conversations`: sessions and the messages in their logs as OpenAI's Conversations and items.

Every session is a conversation, those that were made over gRPC as well: `conv_<session>`.
"""

from __future__ import annotations

import os

from isthmus.session.v1 import message_pb2, session_pb2
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from gateway.http.body import BoundedRequest
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, naming
from gateway.http.ids import conversation_id, parse_conversation, session_of_key
from gateway.http.listing import PageQuery, Span, list_items, page, read_item
from gateway.http.messages import item_messages, labels
from gateway.http.objects import Conversation, Deleted, Item, ItemList
from gateway.http.query import LIMIT_DEFAULT, After, Limit, Ordered
from gateway.http.responses import idempotency_key
from gateway.http.sessions import Origin, labels_of, labels_with, metadata_of, open_session, relabel
from gateway.http.shapes import CreateConversation, CreateItems, UpdateConversation
from gateway.http.tools.items import message
from gateway.identity import new_id


@post("/v1/conversations", responses=ERRORS, status_code=200)
async def create_conversation(
    data: JSONBody[CreateConversation], request: BoundedRequest, edge: GivenEdge
) -> Conversation:
    """A new session, with messages in it if some are given."""
    messages = item_messages(data.items or [])
    metadata = labels(data.metadata)
    key = idempotency_key(request)
    session_id = session_of_key(edge.tenant, key) if key else new_id(os.urandom, "c")
    made = await open_session(edge, session_id, labels_of(metadata, Origin.CONVERSATIONS), may_exist=bool(key))
    if messages:
        await edge.backend.append_messages(edge.tenant, session_id, messages, request_id=key)
    return _conversation(session_id, made)


@get("/v1/conversations/{conversation_id:str}", responses=ERRORS)
async def get_conversation(conversation_id: FromPath[str], edge: GivenEdge) -> Conversation:
    """The session's own fields."""
    session_id, session = await _read(edge, conversation_id)
    return _conversation(session_id, session)


@post("/v1/conversations/{conversation_id:str}", responses=ERRORS, status_code=200)
async def update_conversation(
    data: JSONBody[UpdateConversation], conversation_id: FromPath[str], edge: GivenEdge
) -> Conversation:
    """Replaces the metadata."""
    metadata = labels(data.metadata)
    session_id, session = await _read(edge, conversation_id)
    changed = await relabel(edge, session_id, labels_with(session, metadata))
    return _conversation(session_id, changed)


@delete("/v1/conversations/{conversation_id:str}", responses=ERRORS, status_code=200)
async def delete_conversation(conversation_id: FromPath[str], edge: GivenEdge) -> Deleted:
    """Erases the session with everything in it."""
    session_id = parse_conversation(conversation_id, "conversation_id")
    with naming("conversation_id", conversation_id):
        await edge.backend.delete_session(edge.tenant, session_id)
    return Deleted(conversation_id, "conversation.deleted")


@post("/v1/conversations/{conversation_id:str}/items", responses=ERRORS, status_code=200)
async def create_items(
    data: JSONBody[CreateItems], conversation_id: FromPath[str], request: BoundedRequest, edge: GivenEdge
) -> ItemList:
    """Appends messages without running a turn, all of them or none."""
    messages = item_messages(data.items)
    session_id = parse_conversation(conversation_id, "conversation_id")
    with naming("conversation_id", conversation_id):
        made = await edge.backend.append_messages(
            edge.tenant, session_id, messages, request_id=idempotency_key(request)
        )
    heads = [fragment for fragment in made.fragments if fragment.part == 0]
    return page([_made(session_id, head.sequence, each) for head, each in zip(heads, messages, strict=True)])


@get("/v1/conversations/{conversation_id:str}/items", responses=ERRORS)
async def list_conversation_items(
    conversation_id: FromPath[str],
    edge: GivenEdge,
    limit: Limit = LIMIT_DEFAULT,
    order: Ordered = "desc",
    after: After = None,
) -> ItemList:
    """The session's messages and replies, and the pieces of its documents."""
    session_id = parse_conversation(conversation_id, "conversation_id")
    with naming("conversation_id", conversation_id):
        return await list_items(edge, session_id, PageQuery(limit, order, after), Span())


@get("/v1/conversations/{conversation_id:str}/items/{item_id:str}", responses=ERRORS)
async def get_item(conversation_id: FromPath[str], item_id: FromPath[str], edge: GivenEdge) -> Item:
    """One item."""
    session_id = parse_conversation(conversation_id, "conversation_id")
    with naming("item_id", item_id):
        item, _ = await read_item(edge, session_id, item_id)
    return item


@delete("/v1/conversations/{conversation_id:str}/items/{item_id:str}", responses=ERRORS, status_code=200)
async def delete_item(conversation_id: FromPath[str], item_id: FromPath[str], edge: GivenEdge) -> Conversation:
    """Erases one item's text; summaries that cover it go with it, and so do the other items of the same reply."""
    session_id, session = await _read(edge, conversation_id)
    with naming("item_id", item_id):
        _, pieces = await read_item(edge, session_id, item_id)
        for piece in pieces:
            await edge.backend.delete_fragment(edge.tenant, session_id, piece.sequence)
    return _conversation(session_id, session)


async def _read(edge: Edge, conversation: str) -> tuple[str, session_pb2.Session]:
    session_id = parse_conversation(conversation, "conversation_id")
    with naming("conversation_id", conversation):
        return session_id, await edge.backend.get_session(edge.tenant, session_id)


def _conversation(session_id: str, session: session_pb2.Session) -> Conversation:
    return Conversation(conversation_id(session_id), session.create_time.seconds, metadata_of(session))


def _made(session_id: str, sequence: int, sent: message_pb2.Message) -> Item:
    return message(session_id, sequence, sent.role, sent.text, sent.author)
