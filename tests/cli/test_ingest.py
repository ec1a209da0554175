"""`ingest`: streamed, complete, and resumed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from isthmus.session.v1 import document_pb2, session_service_pb2

from services.cli.client import Client
from services.cli.ingest import CHUNK_BYTES, document_id, opened, parts, upload
from services.errors import IsthmusError
from tests.cli.conftest import Isthmus

TEXT = "".join(f"Line {number} of the text, with a word of two bytes: é.\n" for number in range(40_000))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "My Book.txt"
    path.write_text(TEXT)
    assert path.stat().st_size > 3 * CHUNK_BYTES
    return path


def test_a_text_is_ingested_once(isthmus: Isthmus, book: Path) -> None:
    first = isthmus("ingest", str(book), "--session", "library", "--json").json
    again = isthmus("ingest", str(book), "--session", "library", "--json").json

    (document,) = first["documents"]
    assert document["bytes"] == document["document"]["committed_bytes"] == len(TEXT.encode())
    assert document["document"]["state"] == "complete"
    assert document["document"]["name"].startswith("sessions/library/documents/my-book-txt-")
    assert document["fragments"] > 1
    assert document["resumed_from_bytes"] == 0
    assert first["session_totals"]["text_bytes"] >= len(TEXT.encode())
    # Tokens are counted in the background, so their number may be a better one by now.
    assert {**again["session_totals"], "tokens": 0} == {**first["session_totals"], "tokens": 0}
    assert again["documents"][0]["resumed_from_bytes"] == len(TEXT.encode())


def test_stdin_and_several_files(isthmus: Isthmus, tmp_path: Path) -> None:
    small = tmp_path / "small.txt"
    small.write_text("a small text")
    result = isthmus("ingest", "-", str(small), "--session", "piped", stdin="a text from a pipe")
    assert result.code == 0, result.err
    assert "stdin: 18 bytes in 1 fragments" in result.out
    assert "small.txt: 12 bytes" in result.out
    assert "session piped holds" in result.out


def test_a_turn_follows_what_was_ingested(isthmus: Isthmus) -> None:
    isthmus("ingest", "-", "--session", "read", "--json", stdin="The password is swordfish.")
    turn = isthmus("ask", "What is the password?", "--session", "read", "--json").json["turn"]
    assert turn["receipt"]["window"]["item_count"] >= 2


def test_an_upload_goes_on_where_it_was_cut(up: Any, book: Path) -> None:
    seen: list[int] = []
    with Client(up["grpc"]) as client, opened(str(book)) as source:
        client.ensure_session("cut")
        # Half a stream: the server keeps what it got.
        half = itertools.islice(parts("cut", source, 0, lambda _: None), 3)
        with pytest.raises(IsthmusError):
            client.ingest(half)
        kept = client.document("cut", source.document_id)
        assert kept is not None
        assert 0 < kept.committed_bytes < source.size_bytes

        document, first = upload(client, "cut", source, seen.append)

    assert first == kept.committed_bytes
    assert document.state == document_pb2.Document.STATE_COMPLETE
    assert document.committed_bytes == source.size_bytes
    assert seen == sorted(seen)
    assert seen[0] > first


def test_what_was_ingested_is_what_was_sent(isthmus: Isthmus, up: Any, book: Path) -> None:
    isthmus("ingest", str(book), "--session", "whole", "--json")
    with Client(up["grpc"]) as client:
        texts = [fragment.text for page in _pages(client, "whole") for fragment in page.fragments]
    assert "".join(texts) == TEXT


def test_what_cannot_be_ingested_says_why(isthmus: Isthmus, tmp_path: Path) -> None:
    missing = isthmus("ingest", str(tmp_path / "missing.txt"), "--session", "x", "--json").error
    assert missing["reason"] == "FILE"
    assert "No such file" in missing["message"]
    assert isthmus("ingest", str(tmp_path), "--session", "x", "--json").error["reason"] == "FILE"
    rubbish = isthmus("ingest", "-", "--session", "x", "--json", stdin=b"good \xff\xfe bad").error
    assert rubbish["reason"] == "INVALID_UTF8"


@pytest.mark.parametrize(
    ("name", "slug"),
    [("My Book.txt", "my-book-txt-"), ("...", "text-"), ("Ünïcode", "n-code-"), ("x" * 200, "x" * 40 + "-")],
)
def test_an_id_is_readable_and_of_the_content(name: str, slug: str) -> None:
    made = document_id(name, "0123456789abcdef" * 2)
    assert made == slug + "0123456789abcdef"
    assert len(made) <= 63


def _pages(client: Client, session: str) -> Iterator[session_service_pb2.ListFragmentsResponse]:
    token = ""
    while True:
        request = session_service_pb2.ListFragmentsRequest(
            parent=f"sessions/{session}", page_size=1_000, page_token=token
        )
        page = client.stub.ListFragments(request)
        yield page
        token = page.next_page_token
        if not token:
            return
