"""`ingest`: texts of any length into a session, streamed, and resumed where they were cut off."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, session_service_pb2
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from services.cli.client import Client, Patience, session_id, session_name
from services.cli.commands import calling
from services.cli.errors import EXIT_INTERRUPTED, CliError
from services.cli.output import console, print_json
from services.cli.plain import plain
from services.cli.target import Target
from services.errors import IsthmusError

CHUNK_BYTES: Final = 512 << 10
_STDIN: Final = "-"
_SPOOL_BYTES_MAX: Final = 8 << 20
_NAME_CHARACTERS_MAX: Final = 40

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A text to ingest: seekable, its length known, its id the same whenever its name and content are."""

    name: str
    document_id: str
    size_bytes: int
    file: BinaryIO


def ingest(files: list[str], session: str, target: Target, *, as_json: bool) -> None:
    """Streams the files in order; each is complete before the next begins."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(calling(target))
        sources = [stack.enter_context(opened(file)) for file in files]
        name = session_id(client.ensure_session(session))
        documents = _ingest_all(client, name, sources)
        _tell(client, name, documents, as_json)


def upload(client: Client, session: str, source: Source, report: Report) -> tuple[document_pb2.Document, int]:
    """The complete document and the byte it was resumed from.

    `report` gets the bytes that are on their way or durable. A cut stream goes on from what is durable, for as long as
    there is progress.
    """
    return resumed(
        lambda: client.document(session, source.document_id),
        lambda offset: client.ingest(parts(session, source, offset, report)),
        source,
        report,
    )


def resumed(
    look: Callable[[], document_pb2.Document | None],
    send: Callable[[int], document_pb2.Document],
    source: Source,
    report: Report,
) -> tuple[document_pb2.Document, int]:
    """The same, of any place that documents go to: `look` says how far it is there, `send` goes on from an offset."""
    patience = Patience()
    first: int | None = None
    durable = -1
    while True:
        document = look() or document_pb2.Document()
        first = document.committed_bytes if first is None else first
        if document.state == document_pb2.Document.STATE_COMPLETE:
            report(source.size_bytes)
            return document, first
        if document.committed_bytes > durable:
            patience.renew()
        durable = document.committed_bytes
        try:
            return send(durable), first
        except IsthmusError as error:
            # The offset was another writer's, or of before the cut: the next look at the document has the right one.
            moved = error.reason == errors_pb2.ERROR_REASON_DOCUMENT_OFFSET
            patience.wait(_retryable(error) if moved else error)


def document_id(name: str, digest: str) -> str:
    """`moby-dick-txt-0123456789abcdef`: readable, and another one for another content."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_NAME_CHARACTERS_MAX].rstrip("-")
    return f"{slug or 'text'}-{digest[:16]}"


def _ingest_all(client: Client, session: str, sources: list[Source]) -> list[dict[str, Any]]:
    documents = []
    with progress_bar() as progress:
        for source in sources:
            task = progress.add_task(source.name, total=source.size_bytes)
            begun = time.monotonic()
            try:
                document, first = upload(client, session, source, lambda sent, task=task: _show(progress, task, sent))  # type: ignore[misc]
            except KeyboardInterrupt:
                raise interrupted(source) from None
            documents.append(_document(source, document, first, time.monotonic() - begun))
    return documents


def parts(
    session: str, source: Source, offset: int, report: Report
) -> Iterator[session_service_pb2.IngestDocumentRequest]:
    """What is sent of a document from `offset` on: header, chunks, end. `report` hears the bytes sent."""
    name = session_name(session)
    for part in document_parts(source, offset, report):
        yield session_service_pb2.IngestDocumentRequest(session=name, part=part)
        # The first message alone says where it goes.
        name = ""


def document_parts(source: Source, offset: int, report: Report) -> Iterator[document_pb2.DocumentPart]:
    """The parts of a document from `offset` on."""
    part = document_pb2.DocumentPart
    yield part(header=part.Header(document_id=source.document_id, display_name=source.name))
    source.file.seek(offset)
    while data := source.file.read(CHUNK_BYTES):
        yield part(chunk=part.Chunk(offset=offset, data=data))
        # gRPC asks for the next part once it has sent this one.
        offset += len(data)
        report(offset)
    yield part(end=part.End(size_bytes=source.size_bytes))


@contextlib.contextmanager
def opened(name: str) -> Iterator[Source]:
    """The text of a path, or of stdin for `-`. Raises CliError for a file that cannot be read."""
    with _spooled() if name == _STDIN else _file(Path(name)) as file:
        # The file itself is hashed rather than its name and date: what is resumed must be the same text.
        digest = hashlib.blake2b(digest_size=16)
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
        shown = "stdin" if name == _STDIN else Path(name).name
        yield Source(shown, document_id(shown, digest.hexdigest()), file.tell(), file)


@contextlib.contextmanager
def _spooled() -> Iterator[BinaryIO]:
    """Stdin on disk: what is resumed must be read twice."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file, _SPOOL_BYTES_MAX)
        file.seek(0)
        yield file


@contextlib.contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CliError("FILE", f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _document(source: Source, document: document_pb2.Document, first: int, seconds: float) -> dict[str, Any]:
    return {
        "document": plain(document),
        "name": source.name,
        "bytes": source.size_bytes,
        "resumed_from_bytes": first,
        "fragments": document.fragment_count,
        "seconds": round(seconds, 3),
    }


def _tell(client: Client, session: str, documents: list[dict[str, Any]], as_json: bool) -> None:
    now = client.session(session)
    if as_json:
        totals = {"tokens": now.tokens, "text_bytes": now.text_bytes, "revision": now.revision}
        print_json({"session": session, "documents": documents, "session_totals": totals})
        return
    out = console()
    for each in documents:
        rate = (each["bytes"] - each["resumed_from_bytes"]) / max(each["seconds"], 1e-3) / 1e6
        resumed = f", resumed from byte {each['resumed_from_bytes']:,}" if each["resumed_from_bytes"] else ""
        line = f"{each['name']}: {each['bytes']:,} bytes in {each['fragments']:,} fragments, {each['seconds']:.1f} s"
        out.print(f"{line} ({rate:.1f} MB/s{resumed})", markup=False)
    out.print(f"session {session} holds {now.tokens:,} tokens in {now.text_bytes:,} bytes", markup=False)
    out.print(f"ask it with: isthmus ask --session {session} …", style="dim", markup=False)


def progress_bar() -> Progress:
    notes = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )


def _show(progress: Progress, task: Any, sent: int) -> None:
    progress.update(task, completed=sent)


def _retryable(error: IsthmusError) -> IsthmusError:
    error.retry_after_ms = error.retry_after_ms or 0
    return error


def interrupted(source: Source) -> CliError:
    message = f"{source.name} is not complete; the same command again goes on where this one stopped"
    return CliError("INTERRUPTED", message, exit_code=EXIT_INTERRUPTED)
