"""A failing run made smaller: whatever can be left out of its plan, so that it still fails, is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from tests.simulation.plan import Plan

_RUNS_MAX: Final = 400


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan of which nothing more can go; the best of `_RUNS_MAX` tries."""
    runs = 0
    while True:
        for smaller in _smaller(plan):
            runs += 1
            if fails(smaller):
                plan = smaller
                break
            if runs >= _RUNS_MAX:
                return plan
        else:
            return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less, large things first."""
    for at in range(len(plan.clients)):
        yield replace(plan, clients=(*plan.clients[:at], *plan.clients[at + 1 :]))
    for at in range(len(plan.faults)):
        yield replace(plan, faults=(*plan.faults[:at], *plan.faults[at + 1 :]))
    if plan.loss:
        yield replace(plan, loss=0.0)
    if plan.repeats:
        yield replace(plan, repeats=0.0)
    for at, ops in enumerate(plan.clients):
        for gone in range(len(ops)):
            left = (*ops[:gone], *ops[gone + 1 :])
            yield replace(plan, clients=(*plan.clients[:at], left, *plan.clients[at + 1 :]))
        for one, op in enumerate(ops):
            if op.is_doubled:
                alone = (*ops[:one], replace(op, is_doubled=False), *ops[one + 1 :])
                yield replace(plan, clients=(*plan.clients[:at], alone, *plan.clients[at + 1 :]))
