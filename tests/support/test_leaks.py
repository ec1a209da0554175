"""The rules of the leak check: what lives explains its keys, and nothing else does."""

from __future__ import annotations

import pytest

from tests.support.leaks import Census, leaks

META = "isthmus:{acme/s1}:meta"
LOG = "isthmus:{acme/s1}:log"
OBJECT = "sessions/acme/s1/00-1-ab.zst"
ONE = frozenset({"acme/s1"})
WARM = Census(keys=frozenset({META, LOG}), made=ONE, seen=ONE, touched=ONE, listed=ONE)
COLD = Census(
    keys=frozenset({META}), made=ONE, seen=ONE, listed=ONE, cold={"acme/s1": OBJECT}, objects=frozenset({OBJECT})
)


def test_what_lives_is_explained() -> None:
    mesh = [
        "isthmus:{members}:gateway",
        "isthmus:touched:{0a}",
        "isthmus:sessions:acme",
        "isthmus:usage:acme",
        "isthmus:{keys}:records",
    ]
    assert (
        leaks(WARM) == leaks(COLD) == leaks(Census(keys=frozenset([*mesh, "isthmus:stream", "{isthmus}:queue"]))) == []
    )
    assert leaks(Census(keys=frozenset({"other:key"})), ["other:*"]) == []


@pytest.mark.parametrize(
    "left",
    [
        Census(keys=frozenset({LOG})),
        Census(keys=frozenset({META}), made=ONE),
        Census(keys=frozenset({"isthmus:{acme/s1}:other"}), made=ONE, seen=ONE, touched=ONE, listed=ONE),
        Census(keys=frozenset({"isthmus:other:acme", "stray"})),
        Census(keys=WARM.keys, made=ONE, seen=ONE, touched=ONE),
        Census(keys=WARM.keys, made=ONE, seen=ONE, listed=ONE),
        Census(keys=COLD.keys | {LOG}, made=ONE, seen=ONE, listed=ONE, cold=COLD.cold, objects=COLD.objects),
        Census(keys=COLD.keys, made=ONE, seen=ONE, listed=ONE, cold=COLD.cold),
        Census(objects=frozenset({OBJECT})),
        Census(touched=ONE),
        Census(due=ONE),
        Census(used=ONE),
    ],
)
def test_what_belongs_to_nothing_is_told(left: Census) -> None:
    assert leaks(left)
