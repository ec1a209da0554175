"""What callers may use up: the meters' script and what is made of its readings, on a clock of the test's."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from services.config.limits import CallerLimits, Price
from services.limits.callers import Caller, Defaults, Kind, Override, decode, encode
from services.limits.meter import MICROS, Meter
from services.limits.money import Tokens, cost_micros, money, month_end_us, month_of, parse_money, price_of
from services.limits.standing import Cost, Way, obstacles, refusal
from tests.support.meters import LEASE_MS, Clocked, ClockedMeters, tenant

T = TypeVar("T")
MINUTE_US = 60 * MICROS
NONE = CallerLimits()

pauses = st.integers(0, 90 * MICROS) | st.integers(0, 2_000)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What a script answers without a server to wait for."""
    try:
        work.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    raise AssertionError("the work waits")


def test_a_full_minute_may_come_at_once_and_comes_back_evenly() -> None:
    database, acme = Clocked(), tenant(requests=6)
    meters = ClockedMeters(database)
    assert [run(meters.take([acme], Cost())).is_taken for _ in range(7)] == [True] * 6 + [False]
    database.now_us += 10 * MICROS - 1
    assert not run(meters.take([acme], Cost())).is_taken
    database.now_us += 1
    assert run(meters.take([acme], Cost())).is_taken
    (reading,) = run(meters.look([acme])).readings
    assert reading.requests
    assert (reading.requests.remaining(database.now_us), reading.requests.reset_us(database.now_us)) == (0, MINUTE_US)


@given(st.integers(1, 40), st.lists(st.tuples(pauses, st.integers(1, 12)), max_size=60), st.integers(1, 3))
def test_no_window_sees_more_than_the_burst_and_what_leaks_in_it(
    limit: int, steps: list[tuple[int, int]], gateways: int
) -> None:
    """However many gateways ask: they share one script, and no window of any length has more than its part."""
    database, acme = Clocked(), tenant(tokens=limit)
    doors = [ClockedMeters(database) for _ in range(gateways)]
    taken: list[tuple[int, int]] = []
    for number, (pause_us, amount) in enumerate(steps):
        database.now_us += pause_us
        amount = min(amount, limit)
        before = run(doors[0].look([acme])).readings[0].tokens
        standing = run(doors[number % gateways].take([acme], Cost(0, amount)))
        # What is told is what happens.
        assert before
        assert standing.is_taken == (before.wait_us(database.now_us, amount) == 0)
        if standing.is_taken:
            taken.append((database.now_us, amount))
    for start in range(len(taken)):
        total = 0
        for at_us, amount in taken[start:]:
            total += amount
            # Rounding takes less than a millionth with each call.
            assert total * MICROS <= limit * MICROS + (at_us - taken[start][0]) * limit // 60 + len(taken)


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(pauses, st.integers(1, 2_000), st.integers(0, 4_000), st.integers(0, 3)), max_size=30),
)
def test_what_is_settled_counts_and_no_refund_goes_below_zero(
    limit: int, steps: list[tuple[int, int, int, int]]
) -> None:
    database, acme = Clocked(), tenant(tokens=limit, budget=10**9)
    meters = ClockedMeters(database)
    spent = 0
    for number, (pause_us, estimated, real, repeats) in enumerate(steps):
        database.now_us += pause_us
        ticket = str(number)
        before = run(meters.look([acme])).readings[0]
        if not run(meters.take([acme], Cost(0, estimated, estimated), ticket)).is_taken:
            continue
        # Sent again, after an answer that was lost: nothing more is taken.
        assert run(meters.take([acme], Cost(0, estimated, estimated), ticket)).is_taken
        for _ in range(repeats):
            after = run(meters.settle([acme], ticket, Cost(0, real, real))).readings[0]
            assert after.tokens_level == before.tokens_level + real * MICROS
        spent += real if repeats else estimated
        assert run(meters.look([acme])).readings[0].micros == spent
    for value in database.used().values():
        assert not value.startswith("-")


def test_a_refund_of_what_has_leaked_already_leaves_nothing() -> None:
    database, acme = Clocked(), tenant(tokens=600)
    meters = ClockedMeters(database)
    assert run(meters.take([acme], Cost(0, 600), "t")).is_taken
    database.now_us += 50 * MICROS // 10
    database.now_us += 1 * MICROS
    (reading,) = run(meters.settle([acme], "t", Cost(0, 0))).readings
    assert reading.tokens_level == 0


def test_what_is_larger_than_a_minute_goes_alone_and_is_paid_for_afterwards() -> None:
    database, acme = Clocked(), tenant(tokens=100)
    meters = ClockedMeters(database)
    assert run(meters.take([acme], Cost(0, 250), "t")).is_taken
    standing = run(meters.take([acme], Cost(0, 250), "u"))
    (found,) = obstacles(standing, Cost(0, 250), 1_000)
    assert found.wait_ms == 150_000
    database.now_us += 150 * MICROS - 1
    assert not run(meters.take([acme], Cost(0, 250), "u")).is_taken
    database.now_us += 1
    assert run(meters.take([acme], Cost(0, 250), "u")).is_taken


def test_all_callers_give_or_none_does() -> None:
    database = Clocked()
    acme, ann, home = (
        tenant(requests=10),
        tenant(requests=2, kind=Kind.USER, name="ann"),
        tenant(requests=1, kind=Kind.ADDRESS, name="10.0.0.1"),
    )
    meters = ClockedMeters(database)
    assert run(meters.take([acme, ann, home], Cost())).is_taken
    refused = run(meters.take([acme, ann, home], Cost()))
    assert [each.refused for each in refused.readings] == [Way(0), Way(0), Way.REQUESTS]
    assert [each.requests_level for each in run(meters.look([acme, ann])).readings] == [MICROS, MICROS]
    assert run(meters.take([acme, ann], Cost())).is_taken
    assert not run(meters.take([acme, ann], Cost())).is_taken
    assert run(meters.take([acme, tenant(requests=2, kind=Kind.USER, name="bob")], Cost())).is_taken


@given(
    st.integers(1, 5), st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 4 * MICROS)), max_size=60)
)
def test_concurrent_turns_are_never_more_than_their_limit(limit: int, steps: list[tuple[int, bool, int]]) -> None:
    database, acme = Clocked(), tenant(turns=limit)
    meters = ClockedMeters(database)
    ends_us: dict[str, int] = {}
    for number, ends, pause_us in steps:
        database.now_us += pause_us
        ends_us = {ticket: end for ticket, end in ends_us.items() if end > database.now_us}
        ticket = str(number)
        if ends:
            run(meters.settle([acme], ticket, Cost()))
            ends_us.pop(ticket, None)
        elif ticket in ends_us:
            run(meters.renew([acme], ticket))
            ends_us[ticket] = database.now_us + LEASE_MS * 1_000
        else:
            is_free = len(ends_us) < limit
            assert run(meters.take([acme], Cost(), ticket)).is_taken == is_free
            if is_free:
                ends_us[ticket] = database.now_us + LEASE_MS * 1_000
        (reading,) = run(meters.look([acme])).readings
        assert (reading.turns, reading.turns <= limit) == (len(ends_us), True)
        assert reading.turns_end_us == min(ends_us.values(), default=0)


def test_a_budget_is_not_knowingly_passed_and_begins_anew_each_month() -> None:
    database, acme = Clocked(), tenant(budget=1_000)
    meters = ClockedMeters(database)
    assert run(meters.take([acme], Cost(micros=600), "a")).is_taken
    standing = run(meters.take([acme], Cost(micros=600), "b"))
    assert standing.readings[0].refused == Way.BUDGET
    error = refusal(obstacles(standing, Cost(micros=600), 1_000))
    assert (error.reason, error.retry_after_ms) == (errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED, None)
    assert error.quotas[0].subject == "tenants/acme"
    assert error.metadata == {"limit": "budget_monthly", "of": "tenant"}
    run(meters.settle([acme], "a", Cost(micros=1_200)))
    assert run(meters.look([acme])).readings[0].micros == 1_200
    # A read costs nothing.
    assert run(meters.take([acme], Cost())).is_taken
    database.now_us = month_end_us(database.now_us) - 1
    assert not run(meters.take([acme], Cost(micros=1), "c")).is_taken
    database.now_us += 1
    assert run(meters.take([acme], Cost(micros=1_000), "d")).is_taken


def test_a_refund_of_last_months_money_is_not_this_months() -> None:
    database, acme = Clocked(), tenant(budget=1_000)
    meters = ClockedMeters(database)
    database.now_us = month_end_us(database.now_us) - 1
    run(meters.take([acme], Cost(micros=900), "old"))
    database.now_us += 1
    run(meters.take([acme], Cost(micros=500), "new"))
    assert run(meters.settle([acme], "old", Cost(micros=100))).readings[0].micros == 500


@given(st.integers(86_400, 86_400 * 366 * 200))
def test_the_script_knows_the_calendar(seconds: int) -> None:
    database, acme = Clocked(), tenant(budget=1_000)
    database.now_us = seconds * MICROS
    run(ClockedMeters(database).take([acme], Cost(micros=1), "t"))
    assert database.used()["month"] == month_of(database.now_us)
    assert (
        month_of(month_end_us(database.now_us) - 1)
        == month_of(database.now_us)
        != month_of(month_end_us(database.now_us))
    )


def test_a_limit_that_is_changed_keeps_what_was_used() -> None:
    database = Clocked()
    meters = ClockedMeters(database)
    for _ in range(5):
        assert run(meters.take([tenant(requests=5)], Cost())).is_taken
    assert run(meters.take([tenant(requests=6)], Cost())).is_taken
    assert not run(meters.take([tenant(requests=2)], Cost())).is_taken
    assert run(meters.take([tenant()], Cost())).is_taken


@given(st.integers(1, 10**6), st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_wait_that_is_told_is_the_shortest(limit: int, level: int, amount: int) -> None:
    meter = Meter(limit, min(level, 3 * limit * MICROS), 0)
    wait_us = meter.wait_us(0, amount)
    assert meter.wait_us(wait_us, amount) == 0
    assert not wait_us or meter.wait_us(wait_us - 1, amount) > 0
    assert 0 <= meter.remaining(0) <= limit


def test_the_longest_wait_is_told_and_every_limit_in_the_way_is_named() -> None:
    database = Clocked()
    acme, ann = tenant(requests=60, tokens=60), tenant(tokens=6, kind=Kind.USER, name="ann")
    meters = ClockedMeters(database)
    cost = Cost(1, 6)
    for callers in ([acme, ann], *[[acme]] * 9):
        assert run(meters.take(callers, cost)).is_taken
    assert run(meters.take([acme], Cost(50, 0))).is_taken
    error = refusal(obstacles(run(meters.take([acme, ann], cost)), cost, 1_000))
    assert (error.reason, error.retry_after_ms) == (errors_pb2.ERROR_REASON_RATE_LIMITED, 60_000)
    assert error.metadata == {"limit": "tokens_per_minute", "of": "user"}
    assert {(each.subject, each.description.partition(":")[0]) for each in error.quotas} == {
        ("tenants/acme", "requests per minute"),
        ("tenants/acme", "tokens per minute"),
        ("users/ann", "tokens per minute"),
    }


def test_what_a_tenant_has_of_its_own_wins_over_what_is_configured() -> None:
    defaults = Defaults(
        CallerLimits(requests_per_minute=10, turns_concurrent=2), NONE, CallerLimits(tokens_per_minute=5)
    )
    own = Override().changed(Kind.TENANT, {"requests_per_minute": None, "tokens_per_minute": 7})
    assert decode(encode(own)) == own
    assert defaults.in_force(Kind.TENANT, own) == CallerLimits(tokens_per_minute=7, turns_concurrent=2)
    assert encode(Override().changed(Kind.USER, {})) == b""
    callers = defaults.limited("acme", "ann", "10.0.0.1", own)
    assert [caller.kind for caller in callers] == [Kind.TENANT, Kind.ADDRESS]
    assert Defaults(NONE, NONE, NONE).limited("acme", "ann", "10.0.0.1", None) == ()
    only_user = Defaults(NONE, CallerLimits(requests_per_minute=1), NONE)
    assert [each.kind for each in only_user.limited("acme", "ann", "", None)] == [Kind.TENANT, Kind.USER]
    assert only_user.limited("acme", "", "", None) == ()


def test_no_name_that_a_client_chose_is_in_a_key() -> None:
    part = Caller(Kind.USER, "}:evil{" * 30, NONE).part
    assert part.startswith("user:")
    assert len(part) == len("user:") + 32


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_what_has_a_price_is_never_free(fresh: int, cached: int, output: int) -> None:
    price = Price(input_micros=3_000_000, cached_input_micros=300_000, output_micros=15_000_000)
    cost = cost_micros(Tokens(fresh, cached, output), price)
    exact = 3 * fresh + 0.3 * cached + 15 * output
    assert exact <= cost + 1e-3
    assert cost < exact + 1.001
    assert (cost == 0) == (fresh + cached + output == 0)
    assert cost_micros(Tokens(fresh, cached, output), None) == 0


def test_prices_by_name_and_of_any_other() -> None:
    prices = {"m": Price(input_micros=1), "*": Price(input_micros=2)}
    assert (price_of(prices, "m"), price_of(prices, "n")) == (prices["m"], prices["*"])
    assert price_of({}, "m") is None


@given(st.integers(1, 1 << 50))
def test_money_is_read_as_it_is_written(micros: int) -> None:
    assert parse_money(money(micros)) == micros


@pytest.mark.parametrize("text", ["", "0", "-1", "1e-7", "nan", "inf", "ten", "0.0000001", "1e30"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an amount above 0"):
        parse_money(text)
