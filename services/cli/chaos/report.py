"""What a run has found, as a JSON document and for people. Pure but for the printing."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from rich.console import Console

from services.cli.chaos.plan import Target
from services.cli.chaos.run import Injected, Outcome
from services.cli.output import table_of

# Of what is wrong, as much as anybody reads.
_FINDINGS_COUNT_MAX: Final = 20


def document(outcome: Outcome) -> dict[str, Any]:
    """The figures. `lost`, `doubled` and `reordered` are null where the logs could not be read."""
    ledger, verdict, turns = outcome.ledger, outcome.verdict, outcome.ledger.turns
    return {
        "seconds": round(outcome.seconds, 1),
        "seed": outcome.seed,
        "interrupted": outcome.interrupted,
        "faults": len(outcome.injected),
        "faults_by_kind": dict(sorted(Counter(each.kind for each in outcome.injected).items())),
        "faults_skipped": dict(sorted(Counter(outcome.skipped).items())),
        "sessions": len(ledger.sessions),
        "turns_acknowledged": len(turns),
        "turns_per_s": round(len(turns) / outcome.seconds, 1) if outcome.seconds else 0.0,
        "turn_s_max": round(max((turn.at - turn.begun for turn in turns), default=0.0), 3),
        "lost": verdict.lost if verdict else None,
        "doubled": verdict.doubled if verdict else None,
        "reordered": verdict.reordered if verdict else None,
        "errors_uncured": len(ledger.uncured),
        "errors_cured": dict(sorted(ledger.met.items())),
        "recovery_s_max": round(max((each.away_s for each in outcome.injected), default=0.0), 3),
        "recovery_s_by_kind": _by_kind(outcome.injected),
        "whole_s_max": round(max((each.whole_s for each in outcome.injected), default=0.0), 3),
        "moved": ledger.moves(),
        "findings": findings(outcome),
    }


def passed(outcome: Outcome) -> bool:
    """Whether every acknowledgement was kept and every error cured, and all of it could be looked at."""
    verdict = outcome.verdict
    return verdict is not None and verdict.kept and not outcome.ledger.uncured and outcome.failure is None


def findings(outcome: Outcome) -> list[str]:
    """What is wrong, in words."""
    found = [outcome.failure] if outcome.failure else []
    found += outcome.ledger.uncured
    found += outcome.verdict.findings if outcome.verdict else []
    more = len(found) - _FINDINGS_COUNT_MAX
    return found if more <= 0 else [*found[:_FINDINGS_COUNT_MAX], f"and {more} more"]


def print_fault(console: Console, injected: Injected) -> None:
    """One line, as it happens."""
    who = ", ".join(_named(target) for target in injected.hit)
    console.print(
        f"{injected.at_s:7.1f} s  {injected.kind:<18} {who:<40} "
        f"served again after {injected.away_s:5.2f} s, whole after {injected.whole_s:5.2f} s"
    )


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The table of faults by kind, the figures, and what is wrong."""
    table = table_of("fault", ">times", ">served again after, s at most", ">whole after, s at most")
    for kind, slowest in _by_kind(outcome.injected).items():
        whole = [each.whole_s for each in outcome.injected if each.kind == kind]
        table.add_row(kind, str(len(whole)), f"{slowest:.2f}", f"{max(whole):.2f}")
    console.print()
    console.print(table)
    console.print()
    figures = document(outcome)
    for name in ("turns_acknowledged", "turns_per_s", "turn_s_max", "recovery_s_max", "moved"):
        console.print(f"{name:<20} {figures[name]:,}")
    for name in ("lost", "doubled", "reordered", "errors_uncured"):
        console.print(f"{name:<20} {'unknown' if figures[name] is None else figures[name]}")
    for finding in figures["findings"]:
        console.print(finding, style="red")


def _by_kind(injected: list[Injected]) -> dict[str, float]:
    slowest: dict[str, float] = {}
    for each in injected:
        slowest[each.kind] = max(slowest.get(each.kind, 0.0), round(each.away_s, 3))
    return dict(sorted(slowest.items()))


def _named(target: Target) -> str:
    return f"{target.act.value} {target.name}".strip()
