"""A receipt adds up what its legs were, and nothing of it grows on its own."""

from __future__ import annotations

import pytest
from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import turn_pb2

from gateway.limits.estimate import priced, spent
from gateway.turn.receipt import Ledger, Leg, committed_hops
from services.config import LimitsSettings, Price
from services.limits.money import Tokens

Generate = inference_service_pb2.GenerateResponse
UNAVAILABLE = errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
PLACED = turn_pb2.Placement(reason=turn_pb2.Placement.REASON_AWAY, owner="replica-1", missed_tokens=41)
TIMING = context_service_pb2.StoreTiming(
    plan_ms=0.5, valkey_ms=1.0, valkey_bytes_sent=300, valkey_bytes_received=20, shard="shard-1"
)


def full_turn(ledger: Ledger) -> turn_pb2.Receipt:
    ledger.planned("open", Leg(0.004, 200, 900), TIMING)
    started = Generate.Started(
        window_tokens=1_000, new_tokens=40, reused_tokens=960, pulled_items=2, pulled_bytes=700, pull_ms=3.0
    )
    started.replica, started.model = "replica-1", "m"
    ledger.started(Leg(0.008, 950, 60), started)
    for at in (10.1, 10.2, 10.3):
        ledger.streamed(at, 25)
    ledger.finished(40, Generate.Finished(output_tokens=21, engine_ms=250.0, cached_tokens=960))
    return ledger.receipt(10.35, turn_pb2.WindowReport(epoch=3), "trace")


def test_every_hop_is_there_with_its_time_and_bytes() -> None:
    receipt = full_turn(Ledger(received_at=10.0))
    assert [(hop.name, hop.operation) for hop in receipt.hops] == [
        ("gateway.context_store", "open"),
        ("context_store.valkey", "open"),
        ("gateway.context_store", "plan"),
        ("gateway.inference", "generate"),
        ("inference.context_store", "pull"),
        ("inference.engine", "generate"),
    ]
    opened, valkey, _, hand_over, pull, engine = receipt.hops
    assert (opened.duration_ms, opened.bytes_sent, opened.bytes_received) == (4.0, 200, 900)
    assert (valkey.duration_ms, valkey.bytes_sent, valkey.bytes_received) == (1.0, 300, 20)
    assert hand_over.duration_ms == pytest.approx(5.0), "the pull has a hop of its own"
    assert (hand_over.bytes_sent, hand_over.bytes_received) == (950, 60 + 3 * 25 + 40)
    assert (pull.duration_ms, pull.bytes_received) == (3.0, 700)
    assert engine.duration_ms == 250.0


def test_the_commit_is_told_and_not_in_the_receipt_that_it_stores() -> None:
    store, valkey = committed_hops(Leg(0.002, 500, 800), TIMING)
    assert (store.name, store.operation, store.duration_ms) == ("gateway.context_store", "commit", 2.0)
    assert (valkey.name, valkey.operation, valkey.bytes_sent) == ("context_store.valkey", "commit", 300)


def test_times_count_from_the_first_byte_and_rates_between_tokens() -> None:
    receipt = full_turn(Ledger(received_at=10.0))
    assert receipt.ttft_ms == pytest.approx(100.0)
    assert receipt.total_ms == pytest.approx(350.0)
    assert receipt.tokens_per_second == pytest.approx(20 / 0.2)


def test_tokens_and_members_are_the_ones_that_served() -> None:
    receipt = full_turn(Ledger(received_at=10.0))
    expected = turn_pb2.TokenCounts(
        new_tokens=40, window_tokens=1_000, reused_tokens=960, output_tokens=21, cached_tokens=960
    )
    assert receipt.tokens == expected
    assert (receipt.shard, receipt.replica, receipt.model) == ("shard-1", "replica-1", "m")
    assert (receipt.window.epoch, receipt.trace_id) == (3, "trace")


def test_a_reply_that_other_replicas_went_on_with_names_each_and_its_pause() -> None:
    ledger = Ledger(received_at=10.0)
    ledger.started(Leg(0.010, 100, 10), Generate.Started(replica="replica-1", window_tokens=50, new_tokens=9))
    ledger.streamed(10.1, 20)
    ledger.streamed(10.2, 20)
    ledger.lost(10.9, 7, UNAVAILABLE)
    ledger.started(Leg(0.020, 300, 10), Generate.Started(replica="replica-2", window_tokens=50, new_tokens=50), PLACED)
    ledger.streamed(11.0, 5, has_text=False)
    ledger.lost(11.2, 8, UNAVAILABLE)
    ledger.started(Leg(0.030, 300, 10), Generate.Started(replica="replica-3", window_tokens=50, new_tokens=44), PLACED)
    ledger.streamed(12.2, 20)
    ledger.finished(10, Generate.Finished(output_tokens=12, engine_ms=1.0, resident=True))
    receipt = ledger.receipt(12.3, turn_pb2.WindowReport(), "")
    assert list(receipt.continuations) == [
        # This one gave no text: its pause ends where it was lost itself.
        turn_pb2.Continuation(replica="replica-2", emitted_tokens=7, pause_ms=1_000.0, reason=UNAVAILABLE),
        turn_pb2.Continuation(replica="replica-3", emitted_tokens=8, pause_ms=2_000.0, reason=UNAVAILABLE),
    ]
    assert (receipt.replica, receipt.placement) == ("replica-3", PLACED)
    assert receipt.tokens == turn_pb2.TokenCounts(window_tokens=50, new_tokens=44, output_tokens=12, resident=True)
    assert receipt.ttft_ms == pytest.approx(100.0), "the first text came from the first replica"
    legs = [(hop.bytes_sent, hop.bytes_received) for hop in receipt.hops if hop.name == "gateway.inference"]
    assert legs == [(100, 50), (300, 15), (300, 40)]


def test_a_reply_that_was_whole_when_it_was_taken_over_pauses_until_its_end() -> None:
    ledger = Ledger(received_at=10.0)
    ledger.started(Leg(0.010, 1, 1), Generate.Started(replica="replica-1"))
    ledger.streamed(10.1, 20)
    ledger.lost(10.2, 7, UNAVAILABLE)
    ledger.started(Leg(0.010, 1, 1), Generate.Started(replica="replica-2"))
    ledger.finished(10, Generate.Finished(output_tokens=7))
    [continuation] = ledger.receipt(10.6, turn_pb2.WindowReport(), "").continuations
    assert continuation.pause_ms == pytest.approx(500.0)


def test_a_reply_without_text_has_no_rate_and_no_cache_count_where_the_engine_has_none() -> None:
    ledger = Ledger(received_at=10.0)
    ledger.started(Leg(0.001, 1, 1), Generate.Started())
    ledger.finished(10, Generate.Finished(output_tokens=0))
    receipt = ledger.receipt(10.5, turn_pb2.WindowReport(), "")
    assert receipt.tokens_per_second == 0
    assert receipt.ttft_ms == pytest.approx(500.0)
    assert not receipt.tokens.HasField("cached_tokens")
    assert [hop.operation for hop in receipt.hops] == ["generate", "generate"], "nothing was pulled"


def test_a_refused_try_is_told_with_its_tokens_and_all_tries_are_paid_for() -> None:
    ledger = Ledger(received_at=10.0)
    once = full_turn(ledger)
    tried = ledger.refused(10.4, "forbidden", "word", 24)
    assert (tried.replica, tried.model) == ("replica-1", "m")
    assert tried.duration_ms == pytest.approx(400.0)
    assert (tried.tokens.window_tokens, tried.tokens.output_tokens) == (1_000, 24)
    # The first of what may be read is what counts.
    ledger.streamed(10.5, 25)
    ledger.streamed(10.6, 25)
    ledger.stopped(11)
    ledger.released(10.9)
    receipt = ledger.receipt(11.0, turn_pb2.WindowReport(), "trace")
    assert list(receipt.refused_tries) == [tried]
    assert receipt.ttft_ms == pytest.approx(900.0)
    assert receipt.tokens_per_second == pytest.approx(10 / 0.1)
    assert receipt.tokens.output_tokens == 11
    assert spent(receipt) == Tokens(40, 960, 35)
    assert spent(once) == Tokens(40, 960, 21)
    price = Price(input_micros=1_000_000, cached_input_micros=0, output_micros=1_000_000)
    assert priced(receipt, LimitsSettings(prices={"*": price})).cost.micros == 75
