"""`sessions export`, `sessions import` and `sessions fork`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from isthmus.session.v1 import record_pb2, session_pb2, session_service_pb2
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from services.cli import records
from services.cli.client import session_id
from services.cli.commands import calling
from services.cli.errors import CliError
from services.cli.output import console, print_json
from services.cli.plain import plain
from services.cli.records import Format
from services.cli.target import Target

_PAGE_BYTES_MAX: Final = 768 << 10
_PAGE_COUNT_MAX: Final = 1_024


def export_session(session: str, form: Format, output: Path | None, target: Target, *, as_json: bool) -> None:
    """Writes a session's records into a file, which is there once it is whole, or on stdout."""
    counts = {"fragments": 0, "turns": 0, "documents": 0}
    with calling(target) as client, _opened(output) as file, _progress(session) as progress:
        task = progress.add_task("", count=0)
        for answer in client.export_session(session):
            for record in answer.records:
                records.write(file, record, form)
                _count(counts, record)
            progress.update(task, count=counts["fragments"])
    _tell({"session": session, "file": str(output), "format": form.value, **counts}, output, as_json)


def import_session(source: Path, session: str, target: Target, *, as_json: bool) -> None:
    """Makes a session of a file's records."""
    counts = {"fragments": 0, "turns": 0, "documents": 0}
    with calling(target) as client, _read(source) as file, _progress(source.name) as progress:
        task = progress.add_task("", count=0)

        def counted() -> Iterator[record_pb2.SessionRecord]:
            for record in records.read(file, str(source)):
                _count(counts, record)
                progress.update(task, count=counts["fragments"])
                yield record

        failed: list[CliError] = []
        try:
            made = client.import_session(_requests(counted(), session, failed))
        except Exception:
            # gRPC cancels a call whose requests fail to come, and keeps why to itself.
            if failed:
                raise failed[0] from None
            raise
    if as_json:
        print_json({"session": plain(made), **counts})
        return
    console().print(f"session {session_id(made)} holds {made.tokens:,} tokens in {made.revision:,} fragments")


def fork_session(session: str, turn: int, fork: str, target: Target, *, as_json: bool) -> None:
    """Makes a session that begins as this one was after a turn."""
    with calling(target) as client:
        made: session_pb2.Session = client.fork_session(session, turn, fork)
    if as_json:
        print_json({"session": plain(made)})
        return
    name = session_id(made)
    console().print(f"session {name} goes on from turn {made.parent_turn:,} of {session}", markup=False)
    console().print(f"ask it with: isthmus ask --session {name} …", style="dim", markup=False)


def _requests(
    found: Iterable[record_pb2.SessionRecord], session: str, failed: list[CliError]
) -> Iterator[session_service_pb2.ImportSessionRequest]:
    page = session_service_pb2.ImportSessionRequest(session_id=session)
    size = 0
    try:
        for record in found:
            size += record.ByteSize()
            if page.records and (size > _PAGE_BYTES_MAX or len(page.records) == _PAGE_COUNT_MAX):
                yield page
                page, size = session_service_pb2.ImportSessionRequest(), record.ByteSize()
            page.records.append(record)
    except CliError as error:
        failed.append(error)
        raise
    if page.records:
        yield page


def _count(counts: dict[str, int], record: record_pb2.SessionRecord) -> None:
    kind = f"{record.WhichOneof('record')}s"
    if kind in counts:
        counts[kind] += 1


def _tell(summary: dict[str, Any], output: Path | None, as_json: bool) -> None:
    if as_json and output is not None:
        print_json(summary)
        return
    line = f"{summary['fragments']:,} fragments, {summary['turns']:,} turns, {summary['documents']:,} documents"
    if output is not None:
        console(stderr=True).print(f"{output}: {line}", markup=False)


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Stdout, or a file under another name until it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise CliError("FILE", f"{output} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _read(source: Path) -> Iterator[BinaryIO]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise CliError("FILE", f"{source} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _progress(name: str) -> Progress:
    notes = console(stderr=True)
    columns = (TextColumn(name), TextColumn("{task.fields[count]} fragments"), TimeElapsedColumn())
    return Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)
