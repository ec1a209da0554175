"""Windows: the manifest, the stream, epochs with summaries, and any shard finding the same ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from google.protobuf import field_mask_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import session_pb2, turn_pb2

from tests.context_store.client import StoreClient, chained, refusal, user
from tests.context_store.conftest import StartShard

MIB = 1 << 20


async def filled(store: StoreClient, turns: int) -> None:
    """A session of so many turns, each of 2 * 208 estimated tokens."""
    await store.create()
    for number in range(turns):
        await store.turn(f"r{number}", f"{number:03} ".ljust(600, "q"), reply=f"{number:03} ".ljust(600, "a"))


async def test_a_window_is_streamed_from_the_longest_known_prefix(store: StoreClient) -> None:
    await filled(store, 3)
    opened = await store.open("now", request_id="now")
    start, items = await store.window(opened.manifest)
    assert (start.item_count, len(items)) == (0, 7)
    points = [window_pb2.Checkpoint(item_count=n, digest=chained(items[:n])) for n in (2, 5, 3)]
    wrong = window_pb2.Checkpoint(item_count=6, digest=b"x" * 16)
    beyond = window_pb2.Checkpoint(item_count=99, digest=b"y" * 16)
    start, rest = await store.window(opened.manifest, [*points, wrong, beyond])
    assert (start, rest) == (points[1], items[5:])
    start, rest = await store.window(opened.manifest, [opened.manifest.end])
    assert (start, rest) == (opened.manifest.end, [])


async def test_a_window_that_is_no_more_is_refused(store: StoreClient) -> None:
    await filled(store, 1)
    opened = await store.open("now", request_id="now")
    for epoch, count, digest in ((2, 3, opened.manifest.end.digest), (1, 3, b"x" * 16), (1, 4, b"x" * 16)):
        end = window_pb2.Checkpoint(item_count=count, digest=digest)
        call = store.stub.ReadWindow(api.ReadWindowRequest(key=store.key, epoch=epoch, end=end))
        assert (await refusal(call.read()))[1] == "WINDOW_CHANGED"


async def test_large_windows_travel_in_bounded_messages(store: StoreClient) -> None:
    await store.create()
    data = b"A sentence of the long book. " * 100_000
    await store.write("book", data)
    opened = await store.open("what is it about?")
    assert not opened.manifest.new_items
    request = api.ReadWindowRequest(key=store.key, epoch=1, end=opened.manifest.end)
    responses = [response async for response in store.stub.ReadWindow(request)]
    assert len(responses) > 3
    assert max(response.ByteSize() for response in responses) <= MIB
    items = [item for response in responses for item in response.items]
    assert chained(items) == opened.manifest.end.digest
    assert "".join(item.text for item in items[:-1]).encode() == data


async def test_any_shard_finds_the_same_window(start_shard: StartShard) -> None:
    first, second = await start_shard(), await start_shard()
    await filled(first, 3)
    here = await first.open("now", request_id="now")
    again = await second.open("now", request_id="now")
    assert again.manifest == here.manifest
    _, items = await second.window(here.manifest)
    assert chained(items) == here.manifest.end.digest
    await second.commit(here, "done elsewhere")
    following = await first.open("then", request_id="then")
    assert following.manifest.prefix == here.manifest.end
    assert [item.text for item in following.manifest.new_items] == ["done elsewhere", "then"]


async def test_an_epoch_ends_when_the_next_turn_does_not_fit(store: StoreClient) -> None:
    await filled(store, 4)
    same = await store.open("now", request_id="a", room=8 * 208 + 9)
    assert (same.manifest.epoch, same.manifest.tokens) == (1, 8 * 208 + 9)
    await store.commit(same, "")
    opened = await store.open("now", request_id="b", room=8 * 208 + 9)
    report = opened.manifest.report
    assert (opened.manifest.epoch, report.epoch) == (2, 2)
    assert opened.manifest.prefix.item_count == 0
    assert opened.manifest.tokens <= (8 * 208 + 9) // 2
    assert (report.item_count, report.summary_count) == (report.verbatim_count, 0)
    (span,) = report.left_out
    assert (span.first_sequence, span.last_sequence, span.tokens) == (1, 5, 5 * 208)
    assert span.reason == turn_pb2.LeftOut.REASON_NOT_SUMMARISED
    assert [item.first_sequence for item in opened.manifest.new_items] == [6, 7, 8, 9, 10]
    await store.commit(opened, "ok")
    after = await store.open("then", request_id="c", room=8 * 208 + 9)
    assert (after.manifest.epoch, after.manifest.prefix) == (2, opened.manifest.end)
    assert after.manifest.report.left_out == report.left_out


async def test_a_new_epoch_holds_pinned_items_then_summaries_then_the_newest_words(start_shard: StartShard) -> None:
    store, other = await start_shard(), await start_shard()
    await store.create()
    await store.append(user("Always be brief.", pinned=True))
    for number in range(6):
        await store.turn(f"r{number}", "q" * 600, reply="a" * 600)
    for first, last in ((1, 4), (5, 6)):
        assert (await store.stub.CommitSummary(await store.summarise(first, last, f"gist of {first}"))).created
    opened = await store.open("now", request_id="now", room=1_500)
    _, items = await store.window(opened.manifest)
    kinds = [item.kind for item in items]
    assert kinds[:3] == [
        window_pb2.WINDOW_ITEM_KIND_MESSAGE,
        window_pb2.WINDOW_ITEM_KIND_SUMMARY,
        window_pb2.WINDOW_ITEM_KIND_SUMMARY,
    ]
    assert [(one.first_sequence, one.last_sequence) for one in items[:3]] == [(1, 1), (1, 4), (5, 6)]
    assert "gist of 1" in items[1].text
    tail = [one.first_sequence for one in items[3:]]
    assert tail == list(range(tail[0], 15))
    report = opened.manifest.report
    assert (report.summary_count, report.verbatim_count) == (2, len(items) - 2)
    assert [(span.first_sequence, span.last_sequence) for span in report.left_out] == [(7, tail[0] - 1)]
    assert chained(items) == opened.manifest.end.digest
    _, elsewhere = await other.window(opened.manifest)
    assert elsewhere == items


async def test_the_sessions_own_limit_holds(store: StoreClient) -> None:
    await filled(store, 4)
    mask = field_mask_pb2.FieldMask(paths=["window_tokens_max"])
    own = session_pb2.Session(window_tokens_max=1_000)
    await store.stub.UpdateSession(api.UpdateSessionRequest(key=store.key, session=own, update_mask=mask))
    opened = await store.open("now", request_id="now")
    assert opened.manifest.tokens <= 500


async def test_a_preview_is_what_comes_and_changes_nothing(store: StoreClient) -> None:
    await filled(store, 4)
    before = await store.get()
    roomy = await store.stub.PreviewWindow(api.PreviewWindowRequest(key=store.key, window_tokens_max=100_000))
    assert (roomy.report.item_count, roomy.tokens, roomy.tokens_max) == (8, before.tokens, 100_000)
    tight = await store.stub.PreviewWindow(api.PreviewWindowRequest(key=store.key, window_tokens_max=1_000))
    assert (tight.report.epoch, tight.report.item_count) == (2, 2)
    assert await store.get() == before


async def test_a_pinned_session_that_is_full_says_so(store: StoreClient) -> None:
    await store.create()
    await store.append(user("p" * 900, pinned=True))
    call = store.stub.PreviewWindow(api.PreviewWindowRequest(key=store.key, window_tokens_max=100))
    assert (await refusal(call))[1] == "TURN_TOO_LARGE"


async def test_documents_of_an_open_turn_wait_for_the_next_one(start_shard: StartShard) -> None:
    store, other = await start_shard(), await start_shard()
    await store.create()
    opened = await store.open("question")
    await store.write("doc", b"late news")
    again = await other.open("question", driver="d1")
    assert again.manifest == opened.manifest
    await store.commit(opened, "answer")
    following = await store.open("more", request_id="r2")
    assert following.manifest.prefix == opened.manifest.end
    assert [item.text for item in following.manifest.new_items] == ["late news", "answer", "more"]


@pytest.mark.parametrize("is_held", [True, False])
async def test_erasing_ends_the_epoch_if_the_window_held_it(start_shard: StartShard, is_held: bool) -> None:
    store, other = await start_shard(), await start_shard()
    await filled(store, 4)
    await store.turn("now", "now", room=1_000)
    before = await store.get()
    sequence = 8 if is_held else 1
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=sequence))
    assert (await store.get()).epoch == before.epoch + is_held
    opened = await store.open("then", request_id="then", room=1_000)
    elsewhere = await other.open("then", request_id="then", room=1_000)
    assert elsewhere.manifest == opened.manifest
    _, items = await other.window(opened.manifest)
    assert sequence not in [item.first_sequence for item in items]
    assert chained(items) == opened.manifest.end.digest


async def test_erasing_takes_the_summaries_with_it(store: StoreClient) -> None:
    await filled(store, 4)
    await store.stub.CommitSummary(await store.summarise(1, 2, "secret gist"))
    await store.turn("now", "now", room=1_000)
    assert (await store.get()).summary_count == 1
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=2))
    assert (await store.get()).summary_count == 0
    opened = await store.open("then", request_id="then", room=1_000)
    _, items = await store.window(opened.manifest)
    assert not any("secret" in item.text for item in items)
    (span,) = opened.manifest.report.left_out
    assert span.first_sequence == 1


async def test_nothing_is_planned_anew_while_it_grows(store: StoreClient) -> None:
    await filled(store, 2)
    digests = []
    for number in range(3):
        opened = await store.open("x", request_id=f"x{number}")
        digests.append(opened.manifest)
        await store.commit(opened, "y")
    assert [one.epoch for one in digests] == [1, 1, 1]
    for before, after in pairwise(digests):
        assert after.prefix == before.end
