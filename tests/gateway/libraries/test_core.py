"""What decides about libraries and their files, without I/O: ids, records, what becomes of a copy."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, library_pb2, session_pb2

from gateway.http.vector_stores.filters import DEPTH_MAX, filter_of
from gateway.libraries.attachment import Attachment, AttachmentState, decode, encode
from gateway.libraries.file_record import begun, ended, file_of
from gateway.libraries.library_record import changed, library_of, session_of, touched
from gateway.libraries.places import id_of_key, new_id
from gateway.libraries.progress import copied, embedded, missed
from services.config import LibrariesSettings
from services.errors import InvalidField, IsthmusError

SETTINGS = LibrariesSettings(attempts_count_max=3, retry_ms_min=10, retry_ms_max=100, embed_ms_max=1_000)
Document = document_pb2.Document
NOW_S = 1_800_000_000.0
DAY_S = 86_400


def record(**fields: object) -> Attachment:
    """A file that is on its way."""
    return msgspec.structs.replace(Attachment(file="f", mark="0" * 16, create_ms=1), **fields)


def document(**fields: object) -> document_pb2.Document:
    """A document that is whole."""
    return Document(**{"state": Document.STATE_COMPLETE, "committed_bytes": 10, **fields})  # type: ignore[arg-type]


@given(earlier=st.integers(0, 2**47), later=st.integers(1, 2**40), low=st.binary(min_size=8, max_size=8))
def test_ids_sort_the_newest_first(earlier: int, later: int, low: bytes) -> None:
    older = new_id(lambda _: b"\0" * 8, earlier)
    newer = new_id(lambda _: low, earlier + later)
    assert newer < older
    assert len(newer) == len(older) == 28


def test_the_same_key_makes_the_same_id_for_one_tenant() -> None:
    assert id_of_key("acme", "key") == id_of_key("acme", "key")
    assert len({id_of_key("acme", "key"), id_of_key("other", "key"), id_of_key("acme", "other")}) == 3


texts = st.text(max_size=20)


@given(
    attributes=st.dictionaries(
        texts, st.one_of(texts, st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
    ),
    text_bytes=st.integers(0, 2**40),
    state=st.sampled_from(AttachmentState),
)
def test_a_record_is_read_as_it_was_written(
    attributes: dict[str, str | float | bool], text_bytes: int, state: AttachmentState
) -> None:
    made = record(attributes=attributes, text_bytes=text_bytes, state=state)
    # A change compares the bytes: what was read has to be written as it was.
    assert encode(decode(encode(made))) == encode(made)
    assert decode(encode(made)) == made


def test_a_file_is_seen_once_it_is_whole_and_until_it_is_over() -> None:
    session = begun("notes.md", "text/markdown", 1_000)
    session.name = "sessions/file.abc"
    session.create_time.FromSeconds(int(NOW_S))
    assert file_of(session, NOW_S) is None
    session.MergeFrom(ended("text/markdown", "assistants", 5, 3_600))
    found = file_of(session, NOW_S + 3_599)
    assert found is not None
    assert (found.id, found.filename, found.size_bytes, found.expire_s) == ("abc", "notes.md", 5, NOW_S + 3_600)
    assert file_of(session, NOW_S + 3_600) is None


def a_session(ttl_s: int = 0) -> session_pb2.Session:
    """A library's session that was written last at NOW_S."""
    library = library_pb2.Library(display_name="n", description="d", labels={"team": "red"})
    if ttl_s:
        library.ttl.FromSeconds(ttl_s)
    session = session_of(library)
    session.name = "sessions/library.abc"
    session.create_time.FromSeconds(int(NOW_S))
    session.touch_time.FromSeconds(int(NOW_S))
    return session


def test_a_library_is_what_it_was_made_of() -> None:
    found = library_of(a_session(), NOW_S)
    assert found is not None
    library = found.library
    assert (library.name, library.display_name, library.description) == ("libraries/abc", "n", "d")
    assert dict(library.labels) == {"team": "red"}
    assert found.expire_s == 0
    with pytest.raises(InvalidField, match="kept for the mesh"):
        session_of(library_pb2.Library(labels={"isthmus.ttl_s": "1"}))


def test_a_search_puts_a_librarys_end_off() -> None:
    session = a_session(ttl_s=DAY_S)
    before = library_of(session, NOW_S)
    assert before is not None
    assert before.expire_s == NOW_S + DAY_S
    assert library_of(session, NOW_S + DAY_S) is None
    # Not for each search: a twenty-fourth of the ttl has to have gone.
    assert touched(session, NOW_S + 60) is None
    later = NOW_S + DAY_S / 2
    after = touched(session, later)
    assert after is not None
    session.labels.update(after.labels)
    # The session lives from its last write on: what has passed since then is added.
    assert after.ttl.seconds == DAY_S + DAY_S // 2
    found = library_of(session, NOW_S + DAY_S)
    assert found is not None
    assert found.expire_s == later + DAY_S
    assert touched(a_session(), NOW_S + 100 * DAY_S) is None


def test_a_change_keeps_what_it_does_not_name() -> None:
    session = a_session(ttl_s=DAY_S)
    after = changed(session, library_pb2.Library(display_name="other"), ["display_name"], NOW_S + 10)
    assert after.display_name == "other"
    assert after.labels["team"] == "red"
    assert after.labels["isthmus.description"] == "d"
    assert after.ttl.seconds == DAY_S + 10
    kept_for_ever = changed(session, library_pb2.Library(), ["ttl"], NOW_S)
    assert not kept_for_ever.HasField("ttl")
    assert "isthmus.ttl_s" not in kept_for_ever.labels
    with pytest.raises(InvalidField, match="'name' cannot be changed"):
        changed(session, library_pb2.Library(), ["name"], NOW_S)


def test_a_file_is_completed_once_all_passages_have_vectors() -> None:
    whole = copied(record(), document(), 5)
    assert (whole.text_bytes, whole.copied_ms) == (10, 5)
    # The last one has no word in it.
    for embedder, count, done, is_over in (
        ("", 0, 0, False),
        ("m", 2, 1, False),
        ("m", 2, 2, True),
        ("none", 0, 0, True),
    ):
        one = document(embedder=embedder, passage_count=count, embedded_count=done)
        after, wait_ms = embedded(whole, one, 6, SETTINGS)
        assert (after.state is AttachmentState.COMPLETED) is is_over
        assert (wait_ms is None) is is_over
    error = Document.Error(code="invalid_text", message="why")
    after, wait_ms = embedded(whole, document(error=error), 6, SETTINGS)
    assert (after.state, after.error, after.message, wait_ms) == (AttachmentState.FAILED, "server_error", "why", None)
    after, wait_ms = embedded(whole, document(passage_count=2), 2_000, SETTINGS)
    assert (after.state, wait_ms) == (AttachmentState.FAILED, None)


def test_failures_without_progress_are_counted_up_to_the_bound() -> None:
    away = IsthmusError(errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "away")
    at, waits = record(), []
    while not at.state.is_over:
        at, wait_ms = missed(at, away, SETTINGS, 0.5)
        waits.append(wait_ms)
    assert waits == [7, 15, None]
    assert (at.error, "UPSTREAM_UNAVAILABLE" in at.message) == ("server_error", True)
    moved = copied(record(failures=2), document(state=Document.STATE_RECEIVING, committed_bytes=1), 5)
    assert (moved.failures, moved.copied_ms) == (0, 0)


def test_what_no_attempt_would_change_fails_at_once() -> None:
    for reason, code in (
        (errors_pb2.ERROR_REASON_NOT_FOUND, "invalid_file"),
        (errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, "server_error"),
    ):
        after, wait_ms = missed(record(), IsthmusError(reason, "no"), SETTINGS, 0.5)
        assert (after.state, after.error, wait_ms) == (AttachmentState.FAILED, code, None)


def test_filters_become_the_stores() -> None:
    made = filter_of(
        b'{"type":"and","filters":[{"type":"eq","key":"kind","value":"a"},'
        b'{"type":"or","filters":[{"type":"gte","key":"year","value":2020},{"type":"in","key":"x","value":["a",1]}]}]}'
    )
    first, second = made.junction.filters
    assert first.comparison.value.string_value == "a"
    year, listed = second.junction.filters
    assert (year.comparison.key, year.comparison.value.number_value) == ("year", 2020)
    assert len(listed.comparison.value.list_value.values) == 2
    assert filter_of(b'{"type":"ne","key":"a","value":true}').comparison.value.bool_value is True


def nested(depth: int) -> bytes:
    """A filter in filters."""
    inner = b'{"type":"eq","key":"a","value":1}'
    for _ in range(depth - 1):
        inner = b'{"type":"and","filters":[' + inner + b"]}"
    return inner


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"1", "filters"),
        (b'{"type":"like"}', "filters.type"),
        (b'{"type":"eq","value":1}', "filters.key"),
        (b'{"type":"eq","key":"a","value":null}', "filters.value"),
        (b'{"type":"eq","key":"a","value":[1]}', "filters.value"),
        (b'{"type":"in","key":"a","value":1}', "filters.value"),
        (b'{"type":"in","key":"a","value":[[1]]}', "filters.value[0]"),
        (b'{"type":"eq","key":"a","value":1,"more":1}', "filters.more"),
        (b'{"type":"and","filters":[]}', "filters.filters"),
        (b'{"type":"and","filters":[{"type":"eq","key":"","value":1}]}', "filters.filters[0].key"),
        (nested(DEPTH_MAX + 1), "filters" + ".filters[0]" * DEPTH_MAX),
    ],
)
def test_what_is_wrong_with_a_filter_is_named(raw: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        filter_of(raw)
    assert caught.value.fields[0].field == field


def test_filters_have_bounds() -> None:
    assert filter_of(nested(DEPTH_MAX)).HasField("junction")
    many = b",".join([b'{"type":"and","filters":[' + b",".join([nested(1)] * 33) + b"]}"] * 2)
    with pytest.raises(InvalidField, match="66 comparisons"):
        filter_of(b'{"type":"or","filters":[' + many + b"]}")
