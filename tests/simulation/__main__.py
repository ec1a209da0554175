"""Runs the turn protocol on simulated machines, one run a seed, and tells of the runs that break a promise.

`python -m tests.simulation --seeds 2000` runs many; `--seed 7 --trace` runs one again, event by event, and
`--seed 7 --shrink` the smallest plan that breaks the same promises.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import Final

import structlog

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.plan import Plan, plan_of
from tests.simulation.shrink import shrink
from tests.simulation.world import Outcome, run

_FAILURES_SHOWN_MAX: Final = 5


def main() -> int:
    args = _arguments()
    # What the store logs of faults that are made on purpose is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    mutant = MUTANTS[args.mutant] if args.mutant is not None else None
    if args.seed is not None:
        return _one(args.seed, mutant, is_traced=args.trace, is_shrunk=args.shrink)
    return _many(args.base, args.seeds, mutant)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many to run")
    parser.add_argument("--base", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: show every event")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make its plan smaller first")
    parser.add_argument("--mutant", type=int, help="break the store on purpose: an index of mutants.py")
    return parser.parse_args()


def _one(seed: int, mutant: Mutant | None, *, is_traced: bool, is_shrunk: bool) -> int:
    outcome = run(plan_of(seed), mutant)
    if is_shrunk and outcome.violations:
        outcome = _shrunk(outcome, mutant)
        print(_told(outcome.plan))
    if is_traced:
        print("\n".join(outcome.trace.lines()))
    print(f"seed {seed}: {len(outcome.trace.events)} events, trace {outcome.trace.digest()}")
    print("\n".join(outcome.violations) or "every promise kept")
    return bool(outcome.violations)


def _many(base: int, count: int, mutant: Mutant | None) -> int:
    started, answers, failed = time.perf_counter(), 0, list[Outcome]()
    for seed in range(base, base + count):
        outcome = run(plan_of(seed), mutant)
        answers += outcome.acknowledged_count
        if outcome.violations:
            failed.append(outcome)
            print(f"seed {seed}: {outcome.violations[0]}")
    if failed:
        outcome = _shrunk(failed[0], mutant)
        print("\n".join(["", _told(outcome.plan), *outcome.trace.lines(), *outcome.violations[:_FAILURES_SHOWN_MAX]]))
        print(f"again: python -m tests.simulation --seed {outcome.plan.seed} --shrink --trace")
    seconds = time.perf_counter() - started
    print(f"{count} seeds from {base}, {answers} turns answered, {len(failed)} seeds failed, {seconds:.1f} s")
    return bool(failed)


def _shrunk(outcome: Outcome, mutant: Mutant | None) -> Outcome:
    return run(shrink(outcome.plan, lambda plan: bool(run(plan, mutant).violations)), mutant)


def _told(plan: Plan) -> str:
    ops = [
        f"  {op.key}: {op.kind.value} of {op.session}{', twice' * op.is_doubled}" for ops in plan.clients for op in ops
    ]
    faults = [
        f"  {fault.at_s * 1000:.0f} ms: {fault.harm.value}, {fault.seconds * 1000:.0f} ms" for fault in plan.faults
    ]
    ways = f"loss {plan.loss}, repeats {plan.repeats}"
    head = f"seed {plan.seed}: {plan.shards_count} shards, lease {plan.lease_ms} ms, {ways}"
    return "\n".join([head, *ops, *faults])


if __name__ == "__main__":
    sys.exit(main())
