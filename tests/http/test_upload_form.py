"""The form of an upload: however the body is cut, the same fields and the same file; and what is refused, by name."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.errors import Refusal
from gateway.http.files.fields import Fields, read_fields
from gateway.http.files.form import FIELD_BYTES_MAX, FileBegins, FileEnds, Form
from gateway.http.files.media_types import media_type_of, problem_of

BOUNDARY = "x-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, filename: str = "", media_type: str = "") -> bytes:
    """A part of a form."""
    named = f'; filename="{filename}"' if filename else ""
    typed = f"\r\nContent-Type: {media_type}" if media_type else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}{typed}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def taken(data: bytes, cuts: list[int] | None = None, bytes_max: int = 1 << 20) -> tuple[Form, bytes, FileBegins]:
    """The form, the file's bytes and how the file began, of a body that came in pieces."""
    form = Form(TYPE, bytes_max)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    events = [event for first, last in pairwise(places) for event in form.feed(data[first:last])]
    form.close()
    (begins,) = [event for event in events if isinstance(event, FileBegins)]
    assert isinstance(events[-1], FileEnds)
    return form, b"".join(event for event in events if isinstance(event, bytes)), begins


@given(
    content=st.binary(min_size=1, max_size=400).filter(lambda each: BOUNDARY.encode() not in each),
    cuts=st.lists(st.integers(0, 2_000), max_size=20),
    file_first=st.booleans(),
)
def test_the_pieces_in_which_a_body_comes_change_nothing(content: bytes, cuts: list[int], file_first: bool) -> None:
    parts = [part("purpose", b"assistants"), part("file", content, "notes.md", "text/markdown")]
    form, file, begins = taken(body(*(reversed(parts) if file_first else parts)), cuts)
    assert file == content
    assert begins == FileBegins("notes.md", "text/markdown")
    assert form.fields == {"purpose": "assistants"}


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (body(part("purpose", b"assistants")), "missing_required_parameter", "file"),
        (body(part("file", b"", "notes.md")), "invalid_file", "file"),
        (body(part("file", b"text")), "invalid_value", "file"),
        (body(part("file", b"a", "a.md"), part("file", b"b", "b.md")), "invalid_value", "file"),
        (body(part("purpose", b"a"), part("purpose", b"b")), "invalid_value", "purpose"),
        (body(part("purpose", b"\xff"), part("file", b"a", "a.md")), "invalid_utf8", "purpose"),
        (body(part("purpose", b"a" * (FIELD_BYTES_MAX + 1))), "invalid_value", "purpose"),
        (body(part("file", b"a" * 101, "a.md")), "file_too_large", "file"),
        (body(part("file", b"a", "a.md"))[:-6], "invalid_form", None),
        (b"no form at all, but long enough to be seen as none", "invalid_form", None),
        (body(*(part(f"name-{number}", b"") for number in range(40))), "request_too_large", None),
    ],
)
def test_what_is_wrong_with_a_form_is_named(data: bytes, code: str, param: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        taken(data, bytes_max=100)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=a"])
def test_a_body_that_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(Refusal, match="expected multipart/form-data"):
        Form(content_type, 100)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": "something"}, "purpose"),
        ({"purpose": "assistants", "color": "red"}, "color"),
        ({"purpose": "assistants", "expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"purpose": "assistants", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        (
            {"purpose": "assistants", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
            "expires_after[seconds]",
        ),
        (
            {"purpose": "assistants", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
    ],
)
def test_what_is_wrong_with_a_field_is_named(fields: dict[str, str], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_fields(fields, is_whole=True)
    assert caught.value.param == param


def test_what_may_still_come_is_not_missed() -> None:
    assert read_fields({}, is_whole=False) == Fields("", 0)
    assert read_fields({"purpose": "batch"}, is_whole=True) == Fields("batch", 30 * 86_400)


@pytest.mark.parametrize(
    ("filename", "told", "media_type", "is_text"),
    [
        ("notes.md", "text/markdown; charset=utf-8", "text/markdown", True),
        ("rows.csv", "application/octet-stream", "text/csv", True),
        ("rows.jsonl", "", "application/octet-stream", True),
        ("feed", "application/atom+xml", "application/atom+xml", True),
        ("program.py", "text/x-python", "text/x-python", True),
        ("notes.txt", "text/plain\x00 evil: yes", "text/plain", True),
        ("paper.pdf", "application/octet-stream", "application/pdf", False),
        ("photo.png", "image/png", "image/png", False),
        ("table.xlsx", "", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", False),
    ],
)
def test_texts_are_known_by_type_and_name(filename: str, told: str, media_type: str, is_text: bool) -> None:
    assert media_type_of(filename, told) == media_type
    assert (problem_of(media_type) == "") is is_text
