"""LibraryService over real gRPC: libraries made and changed, documents streamed in, found by their words, erased."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import field_mask_pb2, struct_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, library_pb2, session_service_pb2
from isthmus.session.v1 import library_service_pb2 as api
from isthmus.session.v1.library_service_pb2_grpc import LibraryServiceStub

from services.errors import IsthmusError, from_rpc_error
from tests.gateway.client import Client
from tests.support.mesh import Mesh

TEXTS = {
    "canals": "The isthmus of Panama was cut by a canal in 1914. " * 40,
    "birds": "A heron stands in the reeds and waits for fish. " * 40,
}


@pytest_asyncio.fixture
async def library(mesh: Mesh) -> AsyncIterator[Any]:
    """The service."""
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        yield LibraryServiceStub(channel)


def requests(
    library: str, document: str, text: str, **header: Any
) -> Iterator[api.LibraryServiceIngestDocumentRequest]:
    """A document on its way."""
    part = document_pb2.DocumentPart
    name = f"libraries/{library}"
    head = part.Header(document_id=document, display_name=f"{document}.txt", **header)
    yield api.LibraryServiceIngestDocumentRequest(library=name, part=part(header=head))
    yield api.LibraryServiceIngestDocumentRequest(part=part(chunk=part.Chunk(offset=0, data=text.encode())))
    yield api.LibraryServiceIngestDocumentRequest(part=part(end=part.End(size_bytes=len(text.encode()))))


async def refused(call: Any) -> IsthmusError:
    """What a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def attributes(**values: Any) -> struct_pb2.Struct:
    """Attributes of a document."""
    made = struct_pb2.Struct()
    made.update(values)
    return made


async def test_a_library_is_filled_searched_and_erased(library: Any, client: Client) -> None:
    made = await library.CreateLibrary(
        api.CreateLibraryRequest(
            library_id="nature", library=library_pb2.Library(display_name="Nature", labels={"team": "red"})
        )
    )
    assert (made.name, made.display_name, dict(made.labels)) == ("libraries/nature", "Nature", {"team": "red"})
    for document, text in TEXTS.items():
        entered = await library.IngestDocument(requests("nature", document, text, attributes=attributes(kind=document)))
        assert entered.name == f"libraries/nature/documents/{document}"
        assert entered.state == document_pb2.Document.STATE_COMPLETE
    found = await library.GetLibrary(api.GetLibraryRequest(name="libraries/nature"))
    assert (found.document_count, found.text_bytes) == (2, sum(map(len, TEXTS.values())))
    listed = await library.ListDocuments(api.ListDocumentsRequest(parent="libraries/nature", descending=True))
    assert [each.display_name for each in listed.documents] == ["birds.txt", "canals.txt"]

    search = api.SearchLibraryRequest(name="libraries/nature", query="a canal through Panama", limit=3)
    answer = await library.SearchLibrary(search)
    assert answer.passages[0].document == "libraries/nature/documents/canals"
    assert "Panama" in answer.passages[0].text
    kind = library_pb2.LibraryComparison(
        key="kind", operator=library_pb2.LibraryComparison.OPERATOR_EQ, value=struct_pb2.Value(string_value="birds")
    )
    search.filter.comparison.CopyFrom(kind)
    assert {each.document for each in (await library.SearchLibrary(search)).passages} <= {
        "libraries/nature/documents/birds"
    }

    changed = document_pb2.Document(
        name="libraries/nature/documents/canals", attributes=attributes(year=1914), etag="stale"
    )
    assert (await refused(library.UpdateDocument(api.UpdateDocumentRequest(document=changed)))).reason == (
        errors_pb2.ERROR_REASON_ETAG_MISMATCH
    )
    changed.etag = ""
    updated = await library.UpdateDocument(api.UpdateDocumentRequest(document=changed))
    assert dict(updated.attributes.items()) == {"year": 1914}
    name = api.DeleteDocumentRequest(name="libraries/nature/documents/canals")
    await library.DeleteDocument(name)
    assert (await refused(library.DeleteDocument(name))).reason == errors_pb2.ERROR_REASON_NOT_FOUND

    # Nobody reaches a library by naming it as a session.
    assert "nature" not in str(await client.stub.ListSessions(session_service_pb2.ListSessionsRequest()))
    receipt = await library.DeleteLibrary(api.DeleteLibraryRequest(name="libraries/nature"))
    assert receipt.name == "libraries/nature"
    assert receipt.erasures
    assert not receipt.unreached
    gone = await refused(library.SearchLibrary(search))
    assert (gone.reason, "libraries/nature does not exist" in gone.message) == (errors_pb2.ERROR_REASON_NOT_FOUND, True)


async def test_a_library_is_made_once_and_changed_by_who_has_read_it(library: Any) -> None:
    request = api.CreateLibraryRequest(library=library_pb2.Library(display_name="one"), request_id="r1")
    first, again = await library.CreateLibrary(request), await library.CreateLibrary(request)
    assert first.name == again.name
    named = api.CreateLibraryRequest(library_id="chosen")
    await library.CreateLibrary(named)
    assert (await refused(library.CreateLibrary(named))).reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS

    change = library_pb2.Library(name=first.name, description="for all", etag=first.etag)
    changed = await library.UpdateLibrary(api.UpdateLibraryRequest(library=change))
    assert (changed.display_name, changed.description) == ("one", "for all")
    assert (await refused(library.UpdateLibrary(api.UpdateLibraryRequest(library=change)))).reason == (
        errors_pb2.ERROR_REASON_ETAG_MISMATCH
    )
    mask = field_mask_pb2.FieldMask(paths=["name"])
    wrong = api.UpdateLibraryRequest(library=library_pb2.Library(name=first.name), update_mask=mask)
    assert "update_mask" in (await refused(library.UpdateLibrary(wrong))).message
    page = await library.ListLibraries(api.ListLibrariesRequest(page_size=1))
    assert len(page.libraries) == 1
    rest = await library.ListLibraries(api.ListLibrariesRequest(page_size=1, page_token=page.next_page_token))
    assert {page.libraries[0].name, rest.libraries[0].name} == {first.name, "libraries/chosen"}


async def test_a_document_that_was_cut_is_gone_on_with(library: Any) -> None:
    await library.CreateLibrary(api.CreateLibraryRequest(library_id="cut"))
    text = TEXTS["birds"] * 20
    half = list(requests("cut", "birds", text))[:2]
    error = await refused(library.IngestDocument(iter(half)))
    assert error.reason == errors_pb2.ERROR_REASON_DOCUMENT_INCOMPLETE
    name = api.LibraryServiceGetDocumentRequest(name="libraries/cut/documents/birds")
    kept = (await library.GetDocument(name)).committed_bytes
    assert 0 < kept < len(text)
    head, chunk, end = requests("cut", "birds", text)
    chunk.part.chunk.offset = kept
    chunk.part.chunk.data = text[kept:].encode()
    done = await library.IngestDocument(iter((head, chunk, end)))
    assert (done.committed_bytes, done.state) == (len(text), document_pb2.Document.STATE_COMPLETE)
