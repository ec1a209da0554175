"""The rules behind pools: breaker, retry budget, limit, latency, routing; for whatever happens, in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from gateway.pools.breaker import Breaker, BreakerState
from gateway.pools.latency import SAMPLES_COUNT_MAX, Latency
from gateway.pools.limit import AdaptiveLimit, Quota
from gateway.pools.outcome import Verdict, is_settled, judge, quota
from gateway.pools.pool import Call, Pool
from gateway.pools.pools import Blocked, Pools, Standing, refusal
from gateway.pools.retries import RetryBudget
from gateway.pools.routing import Routes, Turn
from services.config import (
    BreakerSettings,
    GatewaySettings,
    PoolSettings,
    PriceSettings,
    ResilienceSettings,
    RetrySettings,
    RouteSettings,
    RuleSettings,
)
from services.errors import IsthmusError, UpstreamUnavailable

BREAKER = BreakerSettings(
    window_ms=10_000, calls_count_min=4, failure_share_max=0.5, open_ms_min=1_000, open_ms_max=8_000
)
STEPS = st.floats(0.0, 3.0)


def breaker(uniform: float = 1.0) -> Breaker:
    return Breaker(BREAKER, lambda: uniform)


def test_a_breaker_opens_at_its_share_of_failures_and_a_probe_closes_it() -> None:
    each = breaker()
    for failed in (False, True, True):
        (each.failed if failed else each.succeeded)(0.0)
    assert each.state(0.0) is BreakerState.CLOSED, "three calls are too few to tell"
    each.failed(0.0)
    assert each.state(0.9) is BreakerState.OPEN
    assert each.wait_s(0.4) == pytest.approx(0.6)
    assert each.error_share(0.0) == 0.75
    assert each.state(1.0) is BreakerState.HALF_OPEN
    assert each.began(1.0)
    assert not each.permits(1.0), "one at a time"
    each.succeeded(1.1, is_probe=True)
    assert (each.state(1.1), each.error_share(1.1)) == (BreakerState.CLOSED, 0.0)


def test_failures_in_a_row_open_a_breaker_whatever_went_well_before() -> None:
    each = breaker()
    for _ in range(100):
        each.succeeded(0.0)
    for _ in range(3):
        each.failed(1.0)
    each.succeeded(1.0)
    for _ in range(3):
        each.failed(2.0)
        assert each.state(2.0) is BreakerState.CLOSED
    each.failed(2.0)
    assert each.state(2.0) is BreakerState.OPEN


def test_failures_that_are_long_past_do_not_count() -> None:
    each = breaker()
    for at in (0.0, 0.0, 0.0, 11.0):
        each.failed(at)
    assert each.state(11.0) is BreakerState.CLOSED


@given(st.integers(1, 12), st.floats(0.0, 1.0))
def test_each_opening_in_a_row_is_twice_as_long_with_jitter_and_within_its_bound(count: int, uniform: float) -> None:
    each, now = breaker(uniform), 0.0
    for _ in range(BREAKER.calls_count_min):
        each.failed(now)
    for opening in range(count):
        longest = min(2.0**opening, 8.0)
        assert 0.75 * longest - 1e-6 <= each.wait_s(now) <= longest + 1e-6
        now += each.wait_s(now)
        assert each.began(now)
        each.failed(now, is_probe=True)


@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=60))
def test_an_open_breaker_lets_nobody_through_and_a_half_open_one_just_one(steps: list[tuple[float, bool]]) -> None:
    each, now, probing = breaker(), 0.0, False
    for step, failed in steps:
        now += step
        state = each.state(now)
        assert each.permits(now) == (state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not probing))
        if not each.permits(now):
            continue
        probing = each.began(now)
        assert probing == (state is BreakerState.HALF_OPEN)
        (each.failed if failed else each.succeeded)(now, is_probe=probing)
        probing = False
        assert 0.0 <= each.error_share(now) <= 1.0


@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=80))
def test_the_share_of_errors_is_that_of_the_window(steps: list[tuple[float, bool]]) -> None:
    each, now = breaker(), 0.0
    happened: list[tuple[float, bool]] = []
    for step, failed in steps:
        now += step
        (each.failed if failed else each.succeeded)(now)
        happened.append((now, failed))
    lately = [failed for at, failed in happened if at > now - 10.0]
    assert each.error_share(now) == pytest.approx(sum(lately) / len(lately) if lately else 0.0)


@given(st.integers(0, 20), st.floats(0.0, 1.0), st.lists(st.sampled_from(["turn", "draw", "served"]), max_size=300))
def test_calls_that_come_to_nothing_are_a_share_of_the_turns_and_a_reserve(
    reserve: int, share: float, events: list[str]
) -> None:
    budget = RetryBudget(RetrySettings(calls_per_turn=share, reserve_calls_count=reserve))
    turns = in_vain = 0
    for event in events:
        if event == "turn":
            budget.turn()
            turns += 1
        elif event == "draw":
            in_vain += budget.draw()
        elif in_vain:
            # One of them has served its turn elsewhere.
            budget.give_back()
            in_vain -= 1
        assert in_vain <= share * turns + reserve + 1e-6
        assert 0.0 <= budget.balance <= reserve


def test_with_what_is_set_by_default_a_hundred_turns_cost_at_most_a_hundred_and_twenty_calls() -> None:
    budget, calls = RetryBudget(RetrySettings()), 0
    for _ in range(100):
        budget.turn()
        calls += 1
        while budget.draw():
            calls += 1
    assert calls <= 120


@given(st.lists(st.sampled_from(["begin", "well", "refused", "end"]), max_size=200), st.integers(1, 50))
def test_the_limit_stays_within_its_bounds_and_falls_with_refusals(events: list[str], most: int) -> None:
    limit, now = AdaptiveLimit(most), 0.0
    for event in events:
        now += 0.5
        before = limit.limit
        if event == "begin" and limit.permits(0, now):
            limit.began(0)
        elif event != "begin" and limit.in_flight:
            if event == "well":
                limit.succeeded()
                assert limit.limit >= before
            elif event == "refused":
                limit.refused(0.1, now)
                assert limit.limit <= before
                assert not limit.permits(0, now)
            limit.ended()
        assert 1 <= limit.limit <= most
        assert 0 <= limit.in_flight <= most


def test_a_limit_that_fell_grows_while_it_is_used() -> None:
    limit = AdaptiveLimit(100)
    for _ in range(20):
        limit.began(0)
    limit.refused(0.0, 0.0)
    fallen = limit.limit
    assert fallen == 14
    for _ in range(200):
        limit.succeeded()
    assert limit.limit > fallen


@given(st.integers(0, 20), st.floats(0.1, 60.0), st.integers(0, 1_000))
def test_no_more_begins_than_the_provider_has_left_until_its_reset(left: int, reset_s: float, tokens: int) -> None:
    limit = AdaptiveLimit(1_000)
    limit.told(0.0, requests=Quota(left, reset_s), tokens=Quota(500, reset_s))
    begun = 0
    while limit.permits(tokens, 0.0) and begun < 100:
        limit.began(tokens)
        begun += 1
    by_tokens = 500 // tokens if tokens else 100
    assert begun == min(left, by_tokens)
    assert limit.wait_s(tokens, 0.0) == pytest.approx(reset_s)
    assert limit.permits(tokens, reset_s + 0.01)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=400), st.floats(0.01, 0.99))
def test_a_quantile_is_one_of_the_last_samples_and_few_exceed_it(samples: list[float], share: float) -> None:
    latency = Latency()
    for seconds in samples:
        latency.add(seconds, 0.0)
    last = samples[-SAMPLES_COUNT_MAX:]
    value = latency.quantile(share)
    assert value in last
    assert sum(each > value for each in last) <= (1 - share) * len(last) + 1e-6
    assert latency.recent(10.0, 10.0) is not None
    assert latency.recent(10.1, 10.0) is None


def error(reason: errors_pb2.ErrorReason.ValueType, **metadata: str) -> IsthmusError:
    return IsthmusError(reason, "so", metadata=metadata)


@pytest.mark.parametrize(
    ("raised", "verdict"),
    [
        (UpstreamUnavailable("away"), Verdict.AWAY),
        (error(errors_pb2.ERROR_REASON_NOT_READY), Verdict.AWAY),
        (error(errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, provider="500"), Verdict.FAILED),
        (error(errors_pb2.ERROR_REASON_OVERLOADED, provider="429"), Verdict.REFUSED),
        (error(errors_pb2.ERROR_REASON_OVERLOADED), Verdict.FULL),
        (error(errors_pb2.ERROR_REASON_ENGINE_FAILED), Verdict.NEUTRAL),
        (error(errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED), Verdict.NEUTRAL),
    ],
)
def test_only_what_a_provider_did_counts_against_it(raised: IsthmusError, verdict: Verdict) -> None:
    assert judge(raised) is verdict
    assert is_settled(raised) == (verdict in (Verdict.FAILED, Verdict.REFUSED))


def test_a_refusal_brings_the_quotas_that_it_names() -> None:
    said = {"requests_remaining": "0", "requests_reset_ms": "1500", "tokens_remaining": "none"}
    assert quota(said, "requests") == Quota(0, 1.5)
    assert quota(said, "tokens") is None


def pool(**settings: object) -> Pool:
    resilience = ResilienceSettings(breaker=BREAKER)
    return Pool("p", PoolSettings.model_validate(settings), resilience, lambda: 1.0, is_configured=True)


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "well", "failed", "refused", "end"]), st.integers(0, 9)), max_size=120)
)
def test_every_call_is_counted_once_however_often_its_end_is_told(events: list[tuple[str, int]]) -> None:
    one, calls, now = pool(), list[Call](), 0.0
    open_calls = 0
    for event, at in events:
        now += 0.3
        if event == "begin":
            calls.append(one.began(f"replica-{at % 3}", 10, now))
            open_calls += 1
            continue
        if not calls:
            continue
        call = calls[at % len(calls)]
        if call.has_ended:
            one.ended(call)
        elif event == "well":
            one.succeeded(call, now)
        elif event == "end":
            one.ended(call)
            open_calls -= 1
        else:
            one.failed(call, Verdict.FAILED if event == "failed" else Verdict.REFUSED, now, 0.1)
        assert one.limit.in_flight == open_calls
        assert one.counts.failed + one.counts.refused <= len(calls)
    for call in calls:
        one.ended(call)
    assert one.limit.in_flight == 0
    # Nobody holds the probe of a breaker for ever.
    assert one.breaker.permits(now + 60.0)
    assert not any(one.is_replica_broken(f"replica-{number}", now + 60.0) for number in range(3))


def test_a_replica_that_fails_is_left_alone_while_its_pool_goes_on() -> None:
    one = pool()
    for number in range(12):
        name = "bad" if number % 3 == 2 else "good"
        call = one.began(name, 0, 0.0)
        if name == "bad":
            one.failed(call, Verdict.FAILED, 0.0)
        else:
            one.succeeded(call, 0.0)
        one.ended(call)
    assert one.is_replica_broken("bad", 0.0)
    assert not one.is_replica_broken("good", 0.0)
    assert one.breaker.permits(0.0)


def test_what_a_reply_costs_follows_its_prices_and_what_was_cached() -> None:
    prices = PriceSettings(input_per_million=3.0, cached_input_per_million=0.3, output_per_million=15.0)
    one = pool(prices=prices.model_dump())
    one.used(prompt_tokens=1_000_000, cached_tokens=500_000, output_tokens=100_000)
    assert one.counts.cost == pytest.approx(1.5 + 0.15 + 1.5)
    assert one.expected_cost(2_000_000) > one.expected_cost(1_000_000) > 1.5


def test_a_hedge_waits_for_the_pools_own_quantile_once_that_is_known() -> None:
    one = pool()
    for number in range(19):
        one.answered(0.1 + number / 100, 0.0)
    assert one.hedge_after_s() is None
    one.answered(0.5, 0.0)
    assert one.hedge_after_s() == pytest.approx(0.28)
    assert pool(hedge=False).hedge_after_s() is None


POOLS = {
    "near": PoolSettings(tier="small", region="eu", prices=PriceSettings(output_per_million=9.0)),
    "far": PoolSettings(tier="small", region="us"),
    "big": PoolSettings(tier="large"),
}
SETTINGS = GatewaySettings(
    pools=POOLS,
    routes={
        "auto": RouteSettings(
            rules=(
                RuleSettings(tenants=("acme",), pools=("big",)),
                RuleSettings(tasks=("code", "plan"), pools=("big", "tier:small")),
                RuleSettings(tokens_max=999, pools=("tier:small", "big")),
                RuleSettings(tokens_min=1_000, tokens_max=9_999, pools=("big",)),
            )
        ),
        "cheap": RouteSettings(rules=(RuleSettings(pools=("tier:small",)),), prefer="cost"),
    },
)


def turn(model: str = "auto", tenant: str = "t", tokens: int = 10) -> Turn:
    return Turn(tenant, "s", model, tokens)


def test_the_first_rule_that_takes_a_turn_says_where_it_goes() -> None:
    routes = Routes(SETTINGS)

    def groups(each: Turn) -> tuple[tuple[str, ...], ...] | None:
        way = routes.way(each)
        return None if way is None else way.groups

    assert groups(turn(tenant="acme")) == (("big",),)
    assert groups(turn("auto:code", tokens=50_000)) == (("big",), ("near", "far"))
    assert groups(turn()) == (("near", "far"), ("big",))
    assert groups(Turn("t", "s", "auto", task="plan")) == (("big",), ("near", "far"))
    assert groups(turn("auto:poem")) == (("near", "far"), ("big",))
    assert groups(turn(tokens=1_000)) == (("big",),)
    assert groups(turn(tokens=10_000)) == (), "no rule takes it"
    assert groups(turn("some-model")) is None
    assert routes.pools_of("auto:code") == frozenset(POOLS)
    assert routes.pools_of("other:auto") is None


def test_equals_are_asked_by_region_then_speed_then_where_the_window_is_then_cost() -> None:
    regional = SETTINGS.model_copy(update={"resilience": ResilienceSettings(region="us")})
    names, regions = ["near", "far"], {"near": "eu", "far": "us"}
    assert Pools(regional, lambda: 0.0).ordered(names, turn(), regions, "", 0.0) == ["far", "near"]
    pools = Pools(SETTINGS, lambda: 0.0)
    assert pools.ordered(names, turn(), regions, "far", 0.0) == ["far", "near"]
    pools.get("near").answered(0.5, 0.0)
    assert pools.ordered(names, turn(), regions, "near", 0.0) == ["far", "near"], "one of which nothing is known"
    pools.get("far").answered(5.0, 0.0)
    assert pools.ordered(names, turn(), regions, "far", 0.0) == ["near", "far"]
    assert pools.ordered(names, turn(), regions, "far", 1_000.0) == ["far", "near"], "that is long past"
    pools.get("near").used(100, 0, 100)
    pools.get("far").used(100, 0, 100)
    assert pools.ordered(names, turn("cheap"), regions, "near", 0.0) == ["far", "near"]


def test_pools_that_are_not_configured_are_remembered_in_bounds_and_never_while_busy() -> None:
    few = SETTINGS.model_copy(update={"resilience": ResilienceSettings(pools_count_max=3)})
    pools = Pools(few, lambda: 0.0)
    busy = pools.get("busy")
    busy.began("r", 0, 0.0)
    for number in range(10):
        pools.get(f"stranger-{number}")
    names = {each.name for each in pools.known()}
    assert names >= {"near", "far", "big", "busy", "stranger-9"}
    assert len(names) <= 3 + 3 + 1


def test_a_turn_that_no_pool_takes_is_told_why_and_when_to_come_again() -> None:
    pools = Pools(SETTINGS, lambda: 1.0)
    pools.drained = {"far": 1}
    call = pools.get("near").began("r", 0, 0.0)
    pools.get("near").failed(call, Verdict.REFUSED, 0.0, 7.0)
    blocked = [pools.blocked(name, 10, 0.0) for name in ("near", "far", "big")]
    assert blocked == [Blocked("near", Standing.BUSY, 7.0), Blocked("far", Standing.DRAINED), None]
    error = refusal(one for one in blocked if one is not None)
    assert (error.reason, error.retry_after_ms) == (errors_pb2.ERROR_REASON_OVERLOADED, 7_000)
    assert error.metadata == {"standing": "far=drained,near=busy"}
    assert is_settled(error)
