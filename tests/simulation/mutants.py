"""Bugs put into the store on purpose: a simulator that does not find them proves nothing by finding none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

import context_store
from context_store.hot import loading
from context_store.log.keys import Keys
from context_store.session.deletion import Deletions
from services.valkey import Acknowledger
from tests.simulation.plan import Harm, Plan

SCRIPTS: Final = Path(context_store.__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug: pieces of scripts replaced by others, or a name of an object's by another value.

    `symptom` is a pattern of the violations that it may lead to.
    """

    name: str
    symptom: str
    scripts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    patched: tuple[object, str, object] | None = None
    # It takes a primary that is lost: plans without one are passed over.
    is_lossy: bool = False

    def texts(self) -> dict[str, str]:
        """The changed scripts by name. AssertionError where a script does not have what is to be replaced."""
        changed = {}
        for name, (old, new) in self.scripts.items():
            text = (SCRIPTS / f"{name}.lua").read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{name}.lua has {text.count(old)} times {old!r}"
            changed[name] = text.replace(old, new)
        return changed

    def explains(self, violations: Iterable[str]) -> bool:
        return any(re.search(self.symptom, violation) for violation in violations)

    def suits(self, plan: Plan) -> bool:
        """Whether a plan can show it at all."""
        return not self.is_lossy or any(fault.harm is Harm.FAIL_OVER for fault in plan.faults)

    def applied(self) -> AbstractContextManager[object]:
        return mock.patch.object(*self.patched) if self.patched else nullcontext()


_SEEN = ("redis.call('HSET', meta, 'seen', ARGV[1])", "")


async def _uncut(self: Deletions, keys: Keys, incarnation: bytes) -> list[str]:
    """No forks, whatever there are."""
    return []


MUTANTS: Final = (
    Mutant(
        "a turn opens whatever version it was planned on",
        "was opened with a window",
        {"open_turn": ("if version ~= ARGV[2] then return {'STALE', version} end", "")},
    ),
    Mutant(
        "a turn is committed in any attempt",
        "had taken it over",
        {"commit_turn": ("if m[3] ~= ARGV[3] or m[4] ~= ARGV[4] then", "if m[3] ~= ARGV[3] then")},
    ),
    Mutant(
        "a request_id is not looked up",
        "was carried out as turns",
        {"open_turn": ("local known = redis.call('HGET', requests, ARGV[3])", "local known = false")},
    ),
    Mutant(
        "a turn is taken over from a driver whose lease lives",
        "was taken over at",
        {"open_turn": ("if left > 0 then return {'ATTACHED', version, m[9], turn, attempt, left} end", "")},
    ),
    Mutant(
        "nothing waits for the replica",
        "was answered|was opened for|there is ''",
        patched=(Acknowledger, "_waits", lambda self, disk: ()),
        is_lossy=True,
    ),
    Mutant(
        "what was there already does not wait for the replica",
        "was answered|was opened for|there is ''",
        {"open_turn": _SEEN, "commit_turn": _SEEN, "close_turn": _SEEN, "append_messages": _SEEN},
        is_lossy=True,
    ),
    Mutant(
        "a copy is brought up whatever it has seen",
        "the log makes|in the log|was told ''",
        patched=(loading, "descends", lambda version, ancestor: True),
        is_lossy=True,
    ),
    Mutant(
        "a deletion leaves all but the session's fields",
        "keys without an owner|sequence numbers|turns, of which",
        {"erase_session": ("redis.call('UNLINK', unpack(KEYS))", "redis.call('UNLINK', KEYS[1])")},
    ),
    Mutant(
        "forks are not told that an ancestor goes",
        "the window of|REVISION_CONFLICT|has no answer",
        patched=(Deletions, "_cut_forks", _uncut),
    ),
    Mutant(
        "a session is frozen whatever has come since it was read",
        "was answered|sequence numbers|there is ''|cannot be read back",
        {"freeze": ("if m[1] ~= ARGV[2] or m[3] ~= '0'", "if m[3] ~= '0'")},
    ),
)
