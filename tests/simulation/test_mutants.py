"""The simulator finds bugs: each one that is put into the store comes to light, in a run that is sound without it."""

from __future__ import annotations

from typing import Final

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.plan import plan_of
from tests.simulation.shrink import shrink
from tests.simulation.world import run

_SEEDS_MAX: Final = 1_200


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_on_purpose_is_found(mutant: Mutant) -> None:
    plans = (plan for plan in map(plan_of, range(_SEEDS_MAX)) if mutant.suits(plan))
    found = next((plan for plan in plans if mutant.explains(run(plan, mutant).violations)), None)
    assert found, f"not found in {_SEEDS_MAX} seeds"
    assert not run(found).violations


def test_a_failing_plan_becomes_small() -> None:
    mutant = MUTANTS[0]
    plan = next(plan for plan in map(plan_of, range(_SEEDS_MAX)) if run(plan, mutant).violations)

    smaller = shrink(plan, lambda one: bool(run(one, mutant).violations))

    assert run(smaller, mutant).violations
    assert sum(map(len, smaller.clients)) <= 4 < sum(map(len, plan.clients))
    assert not smaller.faults
