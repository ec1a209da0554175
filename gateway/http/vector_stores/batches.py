"""`/v1/vector_stores/{id}/file_batches`: files that are attached together, and cancelled together."""

from __future__ import annotations

from litestar import get, post
from litestar.params import FromPath, JSONBody

from gateway.http.edge import GivenEdge
from gateway.http.errors import ERRORS, Refusal, naming
from gateway.http.query import LIMIT_DEFAULT, After, Limit, Ordered
from gateway.http.vector_stores.attaching import attach_all, checked_files
from gateway.http.vector_stores.files import Status, batch_page, place_of, state_of
from gateway.http.vector_stores.objects import FileBatchObject, Page
from gateway.http.vector_stores.render import file_batch, parse_batch
from gateway.http.vector_stores.shapes import CreateFileBatch, wanted
from gateway.libraries.shelves import Wanted
from services.errors import InvalidField


@post("/v1/vector_stores/{vector_store_id:str}/file_batches", responses=ERRORS, status_code=200)
async def create_file_batch(
    data: JSONBody[CreateFileBatch], vector_store_id: FromPath[str], edge: GivenEdge
) -> FileBatchObject:
    """Files that will be copied. Those that are there, or on their way, stay as they are, and are none of the batch."""
    files, param = wanted_of(data, edge.settings.libraries.batch_files_count_max)
    place, kept_ms = await place_of(edge, vector_store_id)
    named = await checked_files(edge, files, param)
    batch = await edge.libraries.shelves.begin_batch(place, [each.file for each, _ in named], kept_ms)
    await attach_all(edge, place, named, batch=batch.id, kept_ms=kept_ms)
    return file_batch(vector_store_id, *await edge.libraries.shelves.batch(place, batch.id))


@get("/v1/vector_stores/{vector_store_id:str}/file_batches/{batch_id:str}", responses=ERRORS)
async def get_file_batch(vector_store_id: FromPath[str], batch_id: FromPath[str], edge: GivenEdge) -> FileBatchObject:
    """How far it is."""
    place, _ = await place_of(edge, vector_store_id)
    with naming("batch_id", batch_id):
        return file_batch(vector_store_id, *await edge.libraries.shelves.batch(place, parse_batch(batch_id)))


@post("/v1/vector_stores/{vector_store_id:str}/file_batches/{batch_id:str}/cancel", responses=ERRORS, status_code=200)
async def cancel_file_batch(
    vector_store_id: FromPath[str], batch_id: FromPath[str], edge: GivenEdge
) -> FileBatchObject:
    """Cancels what of it is still in progress; what was copied of that is erased."""
    place, _ = await place_of(edge, vector_store_id)
    with naming("batch_id", batch_id):
        return file_batch(vector_store_id, *await edge.libraries.shelves.cancel_batch(place, parse_batch(batch_id)))


@get("/v1/vector_stores/{vector_store_id:str}/file_batches/{batch_id:str}/files", responses=ERRORS)
async def list_file_batch_files(
    vector_store_id: FromPath[str],
    batch_id: FromPath[str],
    edge: GivenEdge,
    limit: Limit = LIMIT_DEFAULT,
    order: Ordered = "desc",
    after: After = None,
    filter: Status = None,  # noqa: A002 - OpenAI's name
) -> Page:
    """The batch's files by the time they were attached, of one status if it is given."""
    place, _ = await place_of(edge, vector_store_id)
    with naming("batch_id", batch_id):
        found = await edge.libraries.shelves.batch_files(place, parse_batch(batch_id), state_of(filter))
    return batch_page(vector_store_id, found, limit, order, after)


def wanted_of(data: CreateFileBatch, count_max: int) -> tuple[list[Wanted], str]:
    """The files and the pattern of their places in the request; InvalidField or Refusal for what cannot be."""
    if (data.file_ids is None) == (data.files is None):
        name = "file_ids"
        message = f"{name}: expected either file_ids or files, and not both"
        raise Refusal(400, "missing_required_parameter" if data.files is None else "invalid_value", name, message)
    name = "file_ids" if data.files is None else "files"
    if data.files is None:
        asked = [wanted(each, data.chunking_strategy, data.attributes) for each in dict.fromkeys(data.file_ids or ())]
        param = "file_ids[{}]"
    else:
        for other in ("attributes", "chunking_strategy"):
            if getattr(data, other) is not None:
                raise InvalidField(other, "is for file_ids, expected it in each of files")
        asked = [
            wanted(each.file_id, each.chunking_strategy, each.attributes, f"files[{index}].")
            for index, each in enumerate(data.files)
        ]
        param = "files[{}].file_id"
        if len({each.file for each in asked}) < len(asked):
            raise InvalidField("files", "names a file twice, expected each once")
    if not 1 <= len(asked) <= count_max:
        raise InvalidField(name, f"names {len(asked)} files, expected 1 to {count_max}")
    return asked, param
