"""Export and import: the same log again, elsewhere, or a clear refusal and nothing left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import grpc
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import fragment_pb2, message_pb2, record_pb2, session_pb2, turn_pb2

from context_store.session.records import RecordCheck, Sum
from services.config import Settings
from services.digest import fragment_digest
from services.errors import InvalidField, from_rpc_error
from services.rpc.ended import ServerStatus
from tests.context_store.client import StoreClient, refusal, user
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually

Record = record_pb2.SessionRecord
Change = Callable[[list[Record]], object]


async def fill(store: StoreClient) -> None:
    await store.create(display_name="Mine", labels={"a": "b"}, window_tokens_max=5_000)
    await store.turn("r1", user("rules", pinned=True), "question 1", reply="answer 1")
    opened = await store.open("cancelled", request_id="r2")
    await store.stub.CancelTurn(api.CancelTurnRequest(key=store.key, turn=opened.turn.number))
    await store.append("outside of a turn")
    await store.write("book", b"A long text. " * 2_000)
    await store.turn("r3", "question 3", reply="answer 3")
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=2))


async def exported(store: StoreClient) -> list[Record]:
    records: list[Record] = []
    async for answer in store.stub.ExportSession(api.ExportSessionRequest(key=store.key)):
        assert answer.ByteSize() <= 1 << 20
        records += answer.records
    return records


async def imported(store: StoreClient, records: Iterable[Record], size: int = 7) -> session_pb2.Session:
    every = list(records)

    async def requests() -> AsyncIterator[api.ImportSessionRequest]:
        for first in range(0, len(every), size):
            key = store.key if first == 0 else None
            yield api.ImportSessionRequest(key=key, records=every[first : first + size])

    session: session_pb2.Session = await ServerStatus(store.stub.ImportSession(requests()))
    return session


def content(fragments: Iterable[fragment_pb2.Fragment]) -> list[tuple[object, ...]]:
    return [
        (one.sequence, one.kind, one.role, one.text, one.author, one.part, one.pinned, one.digest, one.turn)
        for one in fragments
    ]


async def test_an_import_has_the_log_of_its_export(store: StoreClient, start_shard: StartShard) -> None:
    await fill(store)
    records = await exported(store)
    assert [records[0].WhichOneof("record"), records[-1].WhichOneof("record")] == ["header", "end"]
    copy = store.about("s2")
    made = await imported(copy, records)
    assert (made.name, made.display_name, made.labels["a"], made.window_tokens_max) == (
        "sessions/s2", "Mine", "b", 5_000
    )  # fmt: skip
    elsewhere = (await start_shard()).about("s2")
    for one in (copy, elsewhere):
        assert content(await one.fragments()) == content(await store.fragments())
        for number in (1, 2, 3):
            there = await one.stub.GetTurn(api.GetTurnRequest(key=one.key, turn=number))
            here = await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=number))
            here.name = there.name
            assert there == here
        document = await one.stub.GetDocument(api.GetDocumentRequest(key=one.key, document="book"))
        assert (document.name, document.committed_bytes) == ("sessions/s2/documents/book", 26_000)
    assert (await copy.turn("r4", "on", reply="and on")).number == 4
    assert (await exported(copy))[-1].end.digest != records[-1].end.digest


async def test_request_ids_stay_in_effect(store: StoreClient) -> None:
    await fill(store)
    copy = store.about("s2")
    await imported(copy, await exported(store))
    again = await copy.open("question 3", request_id="r3")
    assert again.outcome == api.OpenTurnResponse.OUTCOME_FINISHED
    assert again.turn.output_text == "answer 3"
    assert (await copy.open("cancelled", request_id="r2")).outcome == api.OpenTurnResponse.OUTCOME_FINISHED


async def test_a_fork_is_exported_whole(store: StoreClient) -> None:
    await fill(store)
    fork = await store.fork("s2", turn=1)
    await fork.turn("mine", "my own", reply="part")
    copy = store.about("s3")
    await imported(copy, await exported(fork))
    await fork.delete()
    await store.delete()
    assert await copy.texts() == ["rules", "answer 1", "my own", "part"]


def _spoil_digest(records: list[Record]) -> None:
    next(one for one in records if one.HasField("fragment")).fragment.text += "!"


def _spoil_order(records: list[Record]) -> None:
    last = [index for index, one in enumerate(records) if one.HasField("fragment")][-1]
    records[last].fragment.sequence = 1


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda records: records.pop(0), "records[0]"),
        (lambda records: records.insert(1, records[0]), "records[1]"),
        (_spoil_digest, ".fragment.digest"),
        (_spoil_order, ".fragment.sequence"),
        (lambda records: setattr(records[0].header, "format", 2), "records[0].header.format"),
        (lambda records: setattr(records[-1].end, "fragment_count", 5), ".end.fragment_count"),
        (lambda records: setattr(records[-1].end, "digest", b"x" * 16), ".end.digest"),
        (lambda records: records.pop(), "records"),
        (lambda records: records.append(records[-1]), "records["),
        (lambda records: records.insert(2, Record()), "records[2]"),
    ],
)
async def test_what_does_not_fit_is_named_and_nothing_is_left(store: StoreClient, spoil: Change, named: str) -> None:
    await fill(store)
    records = await exported(store)
    spoil(records)
    copy = store.about("s2")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await imported(copy, records)
    error = from_rpc_error(raised.value)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in error.fields[0].field
    assert (await refusal(copy.get()))[1] == "NOT_FOUND"
    await copy.create()


async def test_an_import_is_seen_once_it_has_ended(store: StoreClient, settings: Settings) -> None:
    await fill(store)
    records = await exported(store)
    copy = store.about("s2")
    client = redis.Redis.from_url(settings.valkey.url)

    async def watched() -> AsyncIterator[api.ImportSessionRequest]:
        yield api.ImportSessionRequest(key=copy.key, records=records[:-1])
        # gRPC goes on once the message is on its way: until the shard has it, anybody may take the name.
        await eventually(lambda: client.exists("isthmus:{acme/s2}:meta"))
        assert (await refusal(copy.get()))[1] == "NOT_FOUND"
        assert (await refusal(copy.create()))[1] == "ALREADY_EXISTS"
        assert (await refusal(copy.delete()))[1] == "NOT_FOUND"
        listed = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme"))
        assert [one.name for one in listed.sessions] == ["sessions/s1"]
        yield api.ImportSessionRequest(records=records[-1:])

    await store.stub.ImportSession(watched())
    assert (await copy.get()).revision == (await store.get()).revision
    client.close()


async def test_a_stream_that_breaks_off_leaves_nothing(store: StoreClient) -> None:
    await fill(store)
    records = await exported(store)
    copy = store.about("s2")

    class BrokenError(Exception):
        pass

    async def broken() -> AsyncIterator[api.ImportSessionRequest]:
        yield api.ImportSessionRequest(key=copy.key, records=records[:-1])
        raise BrokenError

    with pytest.raises(BaseException):  # noqa: B017, PT011 - gRPC makes a cancellation of it
        await store.stub.ImportSession(broken())
    # The fixture looks for what is left.


async def test_an_import_whose_shard_died_is_erased(start_shard: StartShard, settings: Settings) -> None:
    store = await start_shard()
    await fill(store)
    records = await exported(store)
    quick = settings.store.model_copy(update={"import_idle_ms_max": 100})
    copy = (await start_shard(settings.model_copy(update={"store": quick}))).about("s2")

    client = redis.Redis.from_url(settings.valkey.url)

    async def slow() -> AsyncIterator[api.ImportSessionRequest]:
        yield api.ImportSessionRequest(key=copy.key, records=records[:3])
        await eventually(lambda: client.exists("isthmus:{acme/s2}:meta"))
        # As soon as it has been quiet for too long somebody else may have the name.
        while (await _created(copy)) is None:
            pass
        yield api.ImportSessionRequest(records=records[3:])

    assert (await refusal(copy.stub.ImportSession(slow())))[1] == "DEADLINE_EXCEEDED"
    assert (await copy.get()).revision == 0
    client.close()


async def _created(store: StoreClient) -> session_pb2.Session | None:
    try:
        return await store.create()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise
        return None


texts = st.text(min_size=1, max_size=20)


@given(st.lists(texts, max_size=6), st.lists(st.sampled_from(["D", "F", "C", "E"]), max_size=4))
@settings(max_examples=50)
def test_every_stream_that_was_summed_is_taken(fragments: list[str], turn_states: list[str]) -> None:
    states = {"D": "STATE_DONE", "F": "STATE_FAILED", "C": "STATE_CANCELLED", "E": "STATE_EXPIRED"}
    records = [Record(header=Record.Header(format=1, session=session_pb2.Session()))]
    records += [
        Record(turn=turn_pb2.Turn(number=number, state=turn_pb2.Turn.State.Value(states[one])))
        for number, one in enumerate(turn_states, 1)
    ]
    kind, role = fragment_pb2.FRAGMENT_KIND_MESSAGE, message_pb2.ROLE_USER
    records += [
        Record(
            fragment=fragment_pb2.Fragment(
                sequence=2 * number, kind=kind, role=role, text=text, digest=fragment_digest(kind, role, "", 0, text)
            )
        )
        for number, text in enumerate(fragments, 1)
    ]
    total, check = Sum(), RecordCheck(1_000)
    for record in records:
        total.add(record)
        check.take(record)
    check.take(total.end())
    assert check.is_ended
    assert (check.revision, check.turn_count) == (2 * len(fragments), len(turn_states))
    with pytest.raises(InvalidField):
        check.take(records[-1])
