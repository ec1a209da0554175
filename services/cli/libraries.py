"""`libraries`: documents that are searched together, made, filled, looked at, searched and erased."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, library_pb2, library_service_pb2

from services.cli.client import UNARY_S_MAX, Client, translated
from services.cli.commands import calling
from services.cli.duration import parse_ms
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.ingest import Report, Source, document_parts, interrupted, opened, progress_bar, resumed
from services.cli.output import console, print_json, table_of
from services.cli.plain import plain
from services.cli.sessions import print_receipt
from services.cli.target import Target
from services.errors import IsthmusError

_PAGE_SIZE_MAX: Final = 1_000
_POLL_S: Final = 0.5
_SNIPPET_CHARS_MAX: Final = 240


@dataclass(frozen=True, slots=True)
class Wish:
    """The library that is wanted."""

    library: str
    name: str
    description: str
    ttl: str | None


def create_library(wish: Wish, target: Target, *, as_json: bool) -> None:
    """Makes a library."""
    library = library_pb2.Library(display_name=wish.name, description=wish.description)
    if wish.ttl is not None:
        try:
            library.ttl.FromMilliseconds(parse_ms(wish.ttl))
        except ValueError as error:
            raise CliError("USAGE", f"--ttl {error}", exit_code=EXIT_USAGE) from None
    request = library_service_pb2.CreateLibraryRequest(library_id=wish.library, library=library)
    with calling(target) as client, translated():
        made = client.libraries.CreateLibrary(request, timeout=UNARY_S_MAX)
    if as_json:
        print_json({"library": plain(made)})
        return
    out = console()
    out.print(f"made {_id(made)}", markup=False)
    out.print(f"fill it with: isthmus libraries add {_id(made)} FILE…", style="dim", markup=False)


def list_libraries(limit: int, target: Target, *, as_json: bool) -> None:
    """At most `limit` libraries by id."""
    found: list[library_pb2.Library] = []
    token = ""
    with calling(target) as client:
        while len(found) < limit:
            request = library_service_pb2.ListLibrariesRequest(
                page_size=min(limit - len(found), _PAGE_SIZE_MAX), page_token=token
            )
            page = client.repeat(lambda: client.libraries.ListLibraries(request, timeout=UNARY_S_MAX))  # noqa: B023
            found += page.libraries
            token = page.next_page_token
            if not token:
                break
    if as_json:
        print_json({"libraries": [plain(each) for each in found], "next_page_token": token})
        return
    table = table_of("library", "updated", "expires", "name")
    for each in found:
        updated = each.update_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        expires = each.expire_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if each.HasField("expire_time") else ""
        table.add_row(_id(each), updated, expires, each.display_name)
    console().print(table if found else "no libraries; `isthmus libraries add` makes one")


def show_library(library: str, limit: int, target: Target, *, as_json: bool) -> None:
    """A library and its newest documents."""
    with calling(target) as client:
        found = _get(client, library)
        documents = _documents(client, library, limit)
    if as_json:
        print_json({"library": plain(found), "documents": [plain(each) for each in documents]})
        return
    out = console()
    name = f' "{found.display_name}"' if found.display_name else ""
    counts = f"{found.document_count:,} documents, {found.text_bytes:,} bytes"
    out.print(f"library  {_id(found)}{name}, {counts}", markup=False)
    if found.description:
        out.print(f"for      {found.description}", markup=False)
    table = table_of("document", "state", ">bytes", ">passages", ">with vectors", "name")
    for each in documents:
        table.add_row(
            each.name.rpartition("/")[2],
            plain(each)["state"],
            f"{each.committed_bytes:,}",
            f"{each.passage_count:,}",
            f"{each.embedded_count:,}",
            each.display_name,
        )
    if documents:
        out.print(table)


def add_files(library: str, files: list[str], target: Target, *, wait: bool, as_json: bool) -> None:
    """Streams the files in order; each is complete before the next begins."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(calling(target))
        sources = [stack.enter_context(opened(file)) for file in files]
        _ensure(client, library)
        added = [_added(client, library, source) for source in sources]
        if wait:
            added = [(_embedded(client, document.name), first) for document, first in added]
    if as_json:
        print_json({"documents": [{"document": plain(each), "resumed_from_bytes": first} for each, first in added]})
        return
    out = console()
    for document, first in added:
        resumed_from = f", resumed from byte {first:,}" if first else ""
        out.print(f"{document.display_name}: {document.committed_bytes:,} bytes{resumed_from}", markup=False)
    out.print(f"search it with: isthmus libraries search {library} …", style="dim", markup=False)


def search_library(library: str, query: str, limit: int, target: Target, *, words_only: bool, as_json: bool) -> None:
    """The passages that suit the query best."""
    request = library_service_pb2.SearchLibraryRequest(
        name=_name(library), query=query, limit=limit, words_only=words_only
    )
    with calling(target) as client:
        found = client.repeat(lambda: client.libraries.SearchLibrary(request, timeout=UNARY_S_MAX))
    if as_json:
        print_json(plain(found))
        return
    out = console()
    for passage in found.passages:
        where = f"{passage.display_name or passage.document.rpartition('/')[2]}, byte {passage.start_byte:,}"
        out.print(f"{passage.score:.3f}  {where}", style="bold", markup=False)
        out.print(f"       {_snippet(passage.text)}", markup=False)
    if not found.passages:
        out.print("nothing suits it")
    if found.words_only and not words_only:
        out.print("by words alone: not every document has its vectors yet", style="dim")


def delete_libraries(libraries: list[str], target: Target, *, as_json: bool) -> None:
    """Erases the libraries one after the other; the first that is not there ends it."""
    receipts: list[Any] = []
    with calling(target) as client:
        for library in libraries:
            request = library_service_pb2.DeleteLibraryRequest(name=_name(library))
            # Not repeated: the second time it would not be found.
            with translated():
                receipt = client.libraries.DeleteLibrary(request, timeout=UNARY_S_MAX)
            receipts.append(plain(receipt))
            if not as_json:
                print_receipt(library, receipt)
    if as_json:
        print_json({"deleted": libraries, "receipts": receipts})


def _ensure(client: Client, library: str) -> None:
    request = library_service_pb2.CreateLibraryRequest(library_id=library)
    try:
        client.repeat(lambda: client.libraries.CreateLibrary(request, timeout=UNARY_S_MAX))
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
            raise


def _added(client: Client, library: str, source: Source) -> tuple[document_pb2.Document, int]:
    """The complete document, and the byte it was resumed from."""
    name = f"{_name(library)}/documents/{source.document_id}"
    with progress_bar() as progress:
        task = progress.add_task(source.name, total=source.size_bytes)

        def report(sent: int) -> None:
            progress.update(task, completed=sent)

        def send(offset: int) -> document_pb2.Document:
            with translated():
                return client.libraries.IngestDocument(_requests(library, source, offset, report))

        try:
            return resumed(lambda: _find(client, name), send, source, report)
        except KeyboardInterrupt:
            raise interrupted(source) from None


def _requests(
    library: str, source: Source, offset: int, report: Report
) -> Iterator[library_service_pb2.LibraryServiceIngestDocumentRequest]:
    name = _name(library)
    for part in document_parts(source, offset, report):
        yield library_service_pb2.LibraryServiceIngestDocumentRequest(library=name, part=part)
        # The first message alone says where it goes.
        name = ""


def _embedded(client: Client, name: str) -> document_pb2.Document:
    """The document once all of its passages have vectors, or will have none."""
    with console(stderr=True).status("waiting for the vectors"):
        while True:
            document = _find(client, name)
            if document is None:
                raise CliError("NOT_FOUND", f"{name} was deleted meanwhile")
            if document.error.code:
                raise CliError("FAILED", f"{name} has no vectors: {document.error.message}")
            if document.passage_count and document.embedded_count >= document.passage_count:
                return document
            time.sleep(_POLL_S)


def _find(client: Client, name: str) -> document_pb2.Document | None:
    request = library_service_pb2.LibraryServiceGetDocumentRequest(name=name)
    try:
        return client.repeat(lambda: client.libraries.GetDocument(request, timeout=UNARY_S_MAX))
    except IsthmusError as error:
        if error.reason == errors_pb2.ERROR_REASON_NOT_FOUND:
            return None
        raise


def _get(client: Client, library: str) -> library_pb2.Library:
    request = library_service_pb2.GetLibraryRequest(name=_name(library))
    return client.repeat(lambda: client.libraries.GetLibrary(request, timeout=UNARY_S_MAX))


def _documents(client: Client, library: str, limit: int) -> list[document_pb2.Document]:
    found: list[document_pb2.Document] = []
    token = ""
    while len(found) < limit:
        request = library_service_pb2.ListDocumentsRequest(
            parent=_name(library), page_size=min(limit - len(found), _PAGE_SIZE_MAX), page_token=token, descending=True
        )
        page = client.repeat(lambda: client.libraries.ListDocuments(request, timeout=UNARY_S_MAX))  # noqa: B023
        found += page.documents
        token = page.next_page_token
        if not token:
            break
    return found


def _name(library: str) -> str:
    return f"libraries/{library.removeprefix('libraries/')}"


def _id(library: library_pb2.Library) -> str:
    return library.name.removeprefix("libraries/")


def _snippet(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SNIPPET_CHARS_MAX else f"{flat[: _SNIPPET_CHARS_MAX - 1]}…"
