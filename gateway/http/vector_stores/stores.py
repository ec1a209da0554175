"""`/v1/vector_stores`: made, listed, changed, deleted and searched."""

from __future__ import annotations

import asyncio
from typing import Final

from isthmus.session.v1 import library_pb2
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from gateway.http.body import BoundedRequest
from gateway.http.connection import while_connected
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, Refusal, missing, naming
from gateway.http.messages import labels
from gateway.http.query import LIMIT_DEFAULT, After, Limit, Ordered
from gateway.http.responses import idempotency_key
from gateway.http.vector_stores.attaching import attach_all, checked_files
from gateway.http.vector_stores.filters import filter_of
from gateway.http.vector_stores.objects import Page, SearchPage, SearchReceipt, StoreDeleted, VectorStore
from gateway.http.vector_stores.render import parse_store, result, vector_store
from gateway.http.vector_stores.shapes import (
    CreateVectorStore,
    SearchVectorStore,
    StoreExpiry,
    UpdateVectorStore,
    wanted,
)
from gateway.libraries.book import Place
from gateway.libraries.library_record import LibraryState
from gateway.libraries.searching import QUERY_BYTES_MAX, Query
from services.errors import InvalidField

_DAY_S: Final = 86_400
_NAME_BYTES_MAX: Final = 256
_DESCRIPTION_BYTES_MAX: Final = 512
_RESULTS_DEFAULT: Final = 10


@post("/v1/vector_stores", responses=ERRORS, status_code=200)
async def create_vector_store(
    data: JSONBody[CreateVectorStore], request: BoundedRequest, edge: GivenEdge
) -> VectorStore:
    """A new library, into which the files are copied in the background."""
    library = library_pb2.Library(
        display_name=_bounded("name", data.name, _NAME_BYTES_MAX),
        description=_bounded("description", data.description, _DESCRIPTION_BYTES_MAX),
        labels=labels(data.metadata),
    )
    _expire(library, data.expires_after)
    files = [wanted(each, data.chunking_strategy, None) for each in dict.fromkeys(data.file_ids or ())]
    named = await checked_files(edge, files, "file_ids[{}]")
    state = await edge.libraries.create(edge.tenant, "", library, idempotency_key(request))
    await attach_all(edge, _place(edge, state), named, kept_ms=edge.libraries.kept_ms(state))
    return await _shown(edge, state)


@get("/v1/vector_stores", responses=ERRORS)
async def list_vector_stores(
    edge: GivenEdge, limit: Limit = LIMIT_DEFAULT, order: Ordered = "desc", after: After = None
) -> Page:
    """Vector stores by the time they were created."""
    found = await edge.libraries.all(edge.tenant)
    if order == "desc":
        found.reverse()
    if after is not None:
        names = [each.library.name for each in found]
        name = f"libraries/{parse_store(after, 'after')}"
        if name not in names:
            raise missing("after", after)
        found = found[names.index(name) + 1 :]
    shown = await asyncio.gather(*(_shown(edge, state) for state in found[:limit]))
    return Page(
        list(shown), shown[0].id if shown else None, shown[-1].id if shown else None, has_more=len(found) > limit
    )


@get("/v1/vector_stores/{vector_store_id:str}", responses=ERRORS)
async def get_vector_store(vector_store_id: FromPath[str], edge: GivenEdge) -> VectorStore:
    """One of them."""
    with naming("vector_store_id", vector_store_id):
        state = await edge.libraries.get(edge.tenant, parse_store(vector_store_id))
    return await _shown(edge, state)


@post("/v1/vector_stores/{vector_store_id:str}", responses=ERRORS, status_code=200)
async def update_vector_store(
    data: JSONBody[UpdateVectorStore], vector_store_id: FromPath[str], edge: GivenEdge
) -> VectorStore:
    """Changes name, metadata or expiry."""
    library, paths = library_pb2.Library(), []
    if isinstance(data.name, str | None):
        library.display_name = _bounded("name", data.name, _NAME_BYTES_MAX)
        paths.append("display_name")
    if isinstance(data.metadata, dict | None):
        library.labels.update(labels(data.metadata))
        paths.append("labels")
    if isinstance(data.expires_after, StoreExpiry | None):
        _expire(library, data.expires_after)
        paths.append("ttl")
    with naming("vector_store_id", vector_store_id):
        own_id = parse_store(vector_store_id)
        if not paths:
            return await _shown(edge, await edge.libraries.get(edge.tenant, own_id))
        return await _shown(edge, await edge.libraries.update(edge.tenant, own_id, library, paths))


@delete("/v1/vector_stores/{vector_store_id:str}", responses=ERRORS, status_code=200)
async def delete_vector_store(vector_store_id: FromPath[str], edge: GivenEdge) -> StoreDeleted:
    """Erases the library with everything in it; the files that were copied into it stay."""
    with naming("vector_store_id", vector_store_id):
        await edge.libraries.delete(edge.tenant, parse_store(vector_store_id))
    return StoreDeleted(vector_store_id)


@post("/v1/vector_stores/{vector_store_id:str}/search", responses=ERRORS, status_code=200)
async def search_vector_store(
    data: JSONBody[SearchVectorStore], vector_store_id: FromPath[str], request: BoundedRequest, edge: GivenEdge
) -> SearchPage:
    """The passages that suit the query best, by words and meaning."""
    queries = queries_of(data)
    place = Place(edge.tenant, parse_store(vector_store_id))
    with naming("vector_store_id", vector_store_id):
        return await while_connected(request.receive, _search(edge, place, queries))


def queries_of(data: SearchVectorStore) -> list[Query]:
    """What is asked; InvalidField or Refusal by the name of what cannot be."""
    if data.rewrite_query:
        message = "rewrite_query: is not supported here; leave it out, or send what changes nothing: null, false"
        raise Refusal(400, "unsupported_parameter", "rewrite_query", message)
    attributes = None if bytes(data.filters) == b"null" else filter_of(bytes(data.filters))
    ranking = data.ranking_options
    queries = []
    for index, text in enumerate([data.query] if isinstance(data.query, str) else data.query):
        size = len(text.encode())
        if not 1 <= size <= QUERY_BYTES_MAX:
            name = "query" if isinstance(data.query, str) else f"query[{index}]"
            raise InvalidField(name, f"is {size} bytes of UTF-8, expected 1 to {QUERY_BYTES_MAX}")
        score_min = ranking.score_threshold or 0.0 if ranking else 0.0
        queries.append(Query(text, data.max_num_results or _RESULTS_DEFAULT, attributes, score_min))
    return queries


async def _search(edge: Edge, place: Place, queries: list[Query]) -> SearchPage:
    answers = [await edge.libraries.searching.search(place, query) for query in queries]
    best: dict[tuple[str, int], tuple[float, int]] = {}
    passages = [passage for answer in answers for passage in answer.passages]
    for index, passage in enumerate(passages):
        key = (passage.document, passage.start_byte)
        if key not in best or passage.score > best[key][0]:
            best[key] = (passage.score, index)
    ranked = sorted(best.values(), key=lambda each: (-each[0], each[1]))[: queries[0].limit]
    return SearchPage(
        search_query=[query.text for query in queries],
        data=[result(passages[index]) for _, index in ranked],
        isthmus=SearchReceipt(all(answer.words_only for answer in answers), min(answer.revision for answer in answers)),
    )


async def _shown(edge: Edge, state: LibraryState) -> VectorStore:
    return vector_store(state, await edge.libraries.shelves.counts(_place(edge, state)))


def _place(edge: Edge, state: LibraryState) -> Place:
    return Place(edge.tenant, state.library.name.removeprefix("libraries/"))


def _expire(library: library_pb2.Library, expiry: StoreExpiry | None) -> None:
    if expiry is not None:
        library.ttl.FromSeconds(expiry.days * _DAY_S)


def _bounded(name: str, text: str | None, bytes_max: int) -> str:
    size = len((text or "").encode())
    if size > bytes_max:
        raise InvalidField(name, f"is {size} bytes of UTF-8, expected at most {bytes_max}")
    return text or ""
