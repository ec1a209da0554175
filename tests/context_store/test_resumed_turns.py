"""A turn that is taken over for its job: whatever its lease, fenced by a new attempt, and never opened anew."""

from __future__ import annotations

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2

from tests.context_store.client import StoreClient, lease_of, refusal

DAY_MS = 86_400_000
Opened = api.OpenTurnResponse


def resumed(store: StoreClient, driver: str, *, turn: int = 1, request_id: str = "r1") -> api.OpenTurnRequest:
    """The same request as `store.open("hello")`, from a delivery of its job."""
    request = store.open_request("hello", driver=driver, request_id=request_id, lease_ms=DAY_MS)
    request.resume_turn = turn
    return request


async def test_a_delivery_takes_the_turn_over_and_fences_the_one_before(store: StoreClient) -> None:
    await store.create()
    queued = await store.open("hello", lease_ms=60_000)
    first = await store.stub.OpenTurn(resumed(store, "one"))
    second = await store.stub.OpenTurn(resumed(store, "two"))
    assert [each.outcome for each in (first, second)] == [Opened.OUTCOME_TAKEN_OVER] * 2
    assert [each.turn.attempt for each in (queued, first, second)] == [1, 2, 3]
    for lost in (queued, first):
        commit = api.CommitTurnRequest(key=store.key, lease=lease_of(lost), output_text="no")
        assert (await refusal(store.stub.CommitTurn(commit)))[1] == "LEASE_LOST"
    again = await store.stub.OpenTurn(resumed(store, "two"))
    assert (again.outcome, again.turn.attempt) == (Opened.OUTCOME_OPENED, 3), "its own call, sent again"
    await store.stub.CommitTurn(api.CommitTurnRequest(key=store.key, lease=lease_of(second), output_text="yes"))
    assert await store.texts() == ["hello", "yes"]
    assert (await store.stub.OpenTurn(resumed(store, "three"))).outcome == Opened.OUTCOME_FINISHED


async def test_nothing_is_opened_for_a_delivery(store: StoreClient) -> None:
    await store.create()
    assert (await refusal(store.stub.OpenTurn(resumed(store, "one"))))[1] == "TURN_STATE"
    opened = await store.open("hello", lease_ms=60_000)
    failed = api.FailTurnRequest(
        key=store.key, lease=lease_of(opened), reason=errors_pb2.ERROR_REASON_ENGINE_FAILED, message="it broke"
    )
    await store.stub.FailTurn(failed)
    assert (await refusal(store.stub.OpenTurn(resumed(store, "one"))))[1] == "TURN_STATE"
    # The same request came anew meanwhile, as another turn: that one is not the delivery's.
    await store.open("hello", driver="d2", lease_ms=60_000)
    assert (await store.stub.OpenTurn(resumed(store, "one"))).outcome == Opened.OUTCOME_ATTACHED
    assert (await store.get()).turn_count == 2


async def test_only_a_queued_turn_has_a_long_lease(store: StoreClient) -> None:
    await store.create()
    long = store.open_request("hello", lease_ms=DAY_MS)
    assert (await refusal(store.stub.OpenTurn(long)))[1] == "INVALID_FIELD"
    await store.open("hello", lease_ms=60_000)
    assert (await store.stub.OpenTurn(resumed(store, "one"))).outcome == Opened.OUTCOME_TAKEN_OVER
    busy = await refusal(store.open("other", request_id="r2", driver="d2"))
    assert busy[1] == "TURN_IN_PROGRESS"
