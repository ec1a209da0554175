"""`/v1/vector_stores/{id}/files`: files in a library, which are copied there in the background."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from gateway.http.connection import ByteStream
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, missing, naming
from gateway.http.files.objects import file_id as file_id_of
from gateway.http.files.objects import parse_file
from gateway.http.query import LIMIT_DEFAULT, After, Limit, Order, Ordered
from gateway.http.vector_stores.attaching import attach_all, checked_files
from gateway.http.vector_stores.objects import ContentPage, Page, StoreFileDeleted, TextContent, VectorStoreFile
from gateway.http.vector_stores.render import page, parse_store, store_file
from gateway.http.vector_stores.shapes import CreateStoreFile, UpdateStoreFile, checked, wanted
from gateway.libraries.attachment import Attachment, AttachmentState
from gateway.libraries.book import Place
from gateway.libraries.places import library_session

Status: TypeAlias = FromQuery[Literal["in_progress", "completed", "failed", "cancelled"] | None]


@post("/v1/vector_stores/{vector_store_id:str}/files", responses=ERRORS, status_code=200)
async def create_vector_store_file(
    data: JSONBody[CreateStoreFile], vector_store_id: FromPath[str], edge: GivenEdge
) -> VectorStoreFile:
    """A file that will be copied. One that is there, or on its way, stays as it is."""
    asked = wanted(data.file_id, data.chunking_strategy, data.attributes)
    place, kept_ms = await place_of(edge, vector_store_id)
    named = await checked_files(edge, [asked], "file_id")
    (record,) = await attach_all(edge, place, named, kept_ms=kept_ms)
    return store_file(vector_store_id, record)


@get("/v1/vector_stores/{vector_store_id:str}/files", responses=ERRORS)
async def list_vector_store_files(
    vector_store_id: FromPath[str],
    edge: GivenEdge,
    limit: Limit = LIMIT_DEFAULT,
    order: Ordered = "desc",
    after: After = None,
    filter: Status = None,  # noqa: A002 - OpenAI's name
) -> Page:
    """The store's files by the time they were attached, of one status if it is given."""
    place, _ = await place_of(edge, vector_store_id)
    found = await edge.libraries.shelves.page(
        place, after=_behind(after), count=limit + 1, order=order, state=state_of(filter)
    )
    if found is None:
        raise missing("after", after or "")
    return page([store_file(vector_store_id, each) for each in found], limit)


@get("/v1/vector_stores/{vector_store_id:str}/files/{file_id:str}", responses=ERRORS)
async def get_vector_store_file(
    vector_store_id: FromPath[str], file_id: FromPath[str], edge: GivenEdge
) -> VectorStoreFile:
    """One of them."""
    place, _ = await place_of(edge, vector_store_id)
    with naming("file_id", file_id):
        return store_file(vector_store_id, await edge.libraries.shelves.find(place, parse_file(file_id, "file_id")))


@post("/v1/vector_stores/{vector_store_id:str}/files/{file_id:str}", responses=ERRORS, status_code=200)
async def update_vector_store_file(
    data: JSONBody[UpdateStoreFile], vector_store_id: FromPath[str], file_id: FromPath[str], edge: GivenEdge
) -> VectorStoreFile:
    """Puts attributes in place of those that the file has there."""
    attributes = checked(data.attributes or {})
    place, _ = await place_of(edge, vector_store_id)
    with naming("file_id", file_id):
        record = await edge.libraries.shelves.update(place, parse_file(file_id, "file_id"), attributes)
    return store_file(vector_store_id, record)


@delete("/v1/vector_stores/{vector_store_id:str}/files/{file_id:str}", responses=ERRORS, status_code=200)
async def delete_vector_store_file(
    vector_store_id: FromPath[str], file_id: FromPath[str], edge: GivenEdge
) -> StoreFileDeleted:
    """Takes a file out of the store; the file itself stays."""
    place, _ = await place_of(edge, vector_store_id)
    if not await edge.libraries.shelves.detach(place, parse_file(file_id, "file_id")):
        raise missing("file_id", file_id)
    return StoreFileDeleted(file_id)


@get("/v1/vector_stores/{vector_store_id:str}/files/{file_id:str}/content", responses=ERRORS)
async def get_vector_store_file_content(
    vector_store_id: FromPath[str], file_id: FromPath[str], edge: GivenEdge
) -> Response[ContentPage]:
    """The file's text, as far as the store has it, in parts that follow one another."""
    place, _ = await place_of(edge, vector_store_id)
    file = parse_file(file_id, "file_id")
    with naming("file_id", file_id):
        await edge.libraries.shelves.find(place, file)
        await edge.backend.get_document(place.tenant, library_session(place.library), file)
    return ByteStream(_content(edge, place, file), "application/json")


async def place_of(edge: Edge, vector_store_id: str) -> tuple[Place, int]:
    """The library of a store, and how long its book is kept; NOT_FOUND where there is none."""
    library = parse_store(vector_store_id)
    with naming("vector_store_id", vector_store_id):
        state = await edge.libraries.get(edge.tenant, library)
    return Place(edge.tenant, library), edge.libraries.kept_ms(state)


def state_of(status: str | None) -> AttachmentState | None:
    """The state by OpenAI's word for it."""
    return None if status is None else AttachmentState(status)


def batch_page(store: str, records: list[Attachment], limit: int, order: Order, after: str | None) -> Page:
    """A page of records that are all there, the oldest first."""
    if order == "desc":
        records = records[::-1]
    if after is not None:
        ids = [file_id_of(each.file) for each in records]
        if after not in ids:
            raise missing("after", after)
        records = records[ids.index(after) + 1 :]
    return page([store_file(store, each) for each in records[: limit + 1]], limit)


def _behind(after: str | None) -> str:
    return "" if after is None else parse_file(after, "after")


async def _content(edge: Edge, place: Place, file: str) -> AsyncGenerator[bytes, None]:
    """A ContentPage as JSON, written as the text comes: it may be larger than anybody wants to hold."""
    head, tail = msgspec.json.encode(ContentPage([])).split(b"[]")
    decoder = codecs.getincrementaldecoder("utf-8")()
    lead = head + b"["
    async with aclosing(edge.libraries.documents.read(place.tenant, library_session(place.library), file)) as pieces:
        async for piece in pieces:
            text = decoder.decode(piece.data)
            if text:
                yield lead + msgspec.json.encode(TextContent(text))
                lead = b","
    yield (lead if lead != b"," else b"") + b"]" + tail
