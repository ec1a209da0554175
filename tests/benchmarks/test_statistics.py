"""Percentiles, and what a receipt says of a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import turn_pb2

from services.cli.bench.statistics import percentile, point, ratio, sample, spread

VALUES = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=200)


@given(VALUES, st.floats(min_value=0.001, max_value=1))
def test_enough_values_do_not_exceed_the_percentile_and_no_smaller_value_would_do(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def test_percentiles_of_a_hundred_values() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0), ([1.0], 1.1)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        percentile(values, share)


def test_a_turn_costs_what_the_client_waited_less_the_engine() -> None:
    store = turn_pb2.Hop(name="gateway.context_store", duration_ms=2, bytes_sent=100, bytes_received=20)
    engine = turn_pb2.Hop(name="inference.engine", operation="generate", duration_ms=30)
    measured = sample(35.0, 900, [store, engine, store], turn_pb2.TokenCounts())
    assert measured.overhead_ms == 5
    assert measured.bytes_by_hop == {"client.gateway": 900, "gateway.context_store": 240}


def test_points_are_compared_over_all_histories() -> None:
    def points(history: int, overhead_ms: float, size: int) -> dict[str, object]:
        hops = [turn_pb2.Hop(name="gateway.inference", bytes_sent=size)]
        return point(history, [sample(overhead_ms, 50, hops, turn_pb2.TokenCounts())] * 3)

    both = [points(2_000_000, 6, 130), points(2_000, 5, 100)]
    assert ratio(both) == {"ratio_p50_2m_to_2k": 1.2}
    assert spread(both) == {"client.gateway": 0, "gateway.inference": 30}
