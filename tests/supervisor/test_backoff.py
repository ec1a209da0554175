from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.backoff import Backoff, RestartPolicy

POLICY = RestartPolicy(delay_ms_min=100, delay_ms_max=5_000, healthy_ms=10_000)


def test_each_death_in_a_row_doubles_the_delay() -> None:
    backoff = Backoff(POLICY)
    assert [backoff.next_delay_ms(50) for _ in range(8)] == [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]


def test_a_healthy_period_begins_anew() -> None:
    backoff = Backoff(POLICY)
    for _ in range(5):
        backoff.next_delay_ms(0)
    assert backoff.next_delay_ms(10_000) == 100
    assert backoff.next_delay_ms(9_999) == 200


@given(st.lists(st.integers(0, 100_000), max_size=200))
def test_a_delay_is_always_within_its_bounds(uptimes: list[int]) -> None:
    backoff = Backoff(POLICY)
    for uptime_ms in uptimes:
        assert POLICY.delay_ms_min <= backoff.next_delay_ms(uptime_ms) <= POLICY.delay_ms_max
