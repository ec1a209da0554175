"""`/v1/files`: uploaded as a stream, listed, read byte for byte, deleted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, TypeAlias

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from gateway.http.body import BoundedRequest
from gateway.http.connection import ByteStream
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, Refusal, naming
from gateway.http.files.objects import FileDeleted, FileList, FileObject, file_list, file_object, parse_file
from gateway.http.files.upload import upload
from gateway.http.query import After, Ordered
from gateway.libraries.file_record import File
from gateway.retry import is_transient
from services.errors import IsthmusError

LIMIT_MAX = 10_000
FilesLimit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)]


@post("/v1/files", responses=ERRORS, status_code=200)
async def create_file(request: BoundedRequest, edge: GivenEdge) -> FileObject:
    """Uploads a text. The form (multipart/form-data) has `file`, `purpose` and, if it is to go by itself,
    `expires_after[anchor]` and `expires_after[seconds]`.
    """
    return file_object(await upload(request, edge))


@get("/v1/files", responses=ERRORS)
async def list_files(
    edge: GivenEdge,
    limit: FilesLimit = LIMIT_MAX,
    order: Ordered = "desc",
    after: After = None,
    purpose: FromQuery[str | None] = None,
) -> FileList:
    """Files by the time they were created."""
    behind = "" if after is None else parse_file(after, "after")
    found = await (_newest if order == "desc" else _oldest)(edge, limit, behind, purpose or "")
    return file_list(found[:limit], has_more=len(found) > limit)


@get("/v1/files/{file_id:str}", responses=ERRORS)
async def get_file(file_id: FromPath[str], edge: GivenEdge) -> FileObject:
    """One file."""
    with naming("file_id", file_id):
        return file_object(await edge.libraries.files.get(edge.tenant, parse_file(file_id, "file_id")))


@get("/v1/files/{file_id:str}/content", responses=ERRORS)
async def get_file_content(file_id: FromPath[str], edge: GivenEdge) -> Response[bytes]:
    """The file's bytes, as they were uploaded."""
    file = parse_file(file_id, "file_id")
    with naming("file_id", file_id):
        found = await edge.libraries.files.get(edge.tenant, file)
    return ByteStream(_content(edge, found), found.media_type, found.size_bytes)


@delete("/v1/files/{file_id:str}", responses=ERRORS, status_code=200)
async def delete_file(file_id: FromPath[str], edge: GivenEdge) -> FileDeleted:
    """Erases a file, and takes it out of the vector stores that it is in."""
    with naming("file_id", file_id):
        await edge.libraries.delete_file(edge.tenant, parse_file(file_id, "file_id"))
    return FileDeleted(file_id)


async def _newest(edge: Edge, limit: int, after: str, purpose: str) -> list[File]:
    return await edge.libraries.files.list(edge.tenant, purpose=purpose, after=after, count=limit + 1)


async def _oldest(edge: Edge, limit: int, after: str, purpose: str) -> list[File]:
    """Ids sort by age, the newest first: what is oldest is known once all are."""
    count_max = edge.settings.libraries.files_listed_count_max
    found = await edge.libraries.files.list(edge.tenant, purpose=purpose, count=count_max + 1)
    if len(found) > count_max:
        message = f"order: asc is for at most {count_max} files (gateway.libraries.files_listed_count_max); use desc"
        raise Refusal(400, "unsupported_parameter", "order", message)
    # An id that sorts before another is that of the younger file.
    return [file for file in reversed(found) if not after or file.id < after][: limit + 1]


async def _content(edge: Edge, file: File) -> AsyncGenerator[bytes, None]:
    """The bytes; a shard that goes away in their middle is left for the next one, where it has given some."""
    offset, resumed = 0, -1
    while True:
        try:
            async with aclosing(edge.libraries.files.read(edge.tenant, file.id, offset)) as pieces:
                async for piece in pieces:
                    offset += len(piece)
                    yield piece
            return
        except IsthmusError as error:
            if not is_transient(error) or offset == resumed:
                raise
            resumed = offset
