"""`shards`: list, add, drain."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Isthmus


def shards(isthmus: Isthmus) -> dict[str, Any]:
    return {each["id"]: each for each in isthmus("shards", "list", "--json").json["shards"]}


def test_a_shard_comes_takes_its_share_and_goes(isthmus: Isthmus) -> None:
    before = shards(isthmus)
    assert list(before) == ["context-store-0", "context-store-1"]
    assert {each["state"] for each in before.values()} == {"ready"}
    assert sum(each["share"] for each in before.values()) == pytest.approx(1)

    added = isthmus("shards", "add", "--json").json["shard"]
    assert added["state"] == "ready"
    three = shards(isthmus)
    assert list(three) == [*before, added["id"]]
    assert sum(each["share"] for each in three.values()) == pytest.approx(1)
    assert 0.2 < three[added["id"]]["share"] < 0.5
    assert {each["endpoint"] for each in before.values()}.isdisjoint({added["endpoint"]})
    assert isthmus("ask", "Hello", "--session", "moving", "--json").json["turn"]["state"] == "done"

    drained = isthmus("shards", "drain", added["id"], "--json").json["shard"]
    assert (drained["id"], drained["state"], drained["pid"]) == (added["id"], "drained", None)
    assert shards(isthmus) == before
    assert isthmus("ask", "Hello", "--session", "moving", "--json").json["turn"]["state"] == "done"


def test_shards_for_people(isthmus: Isthmus) -> None:
    result = isthmus("shards")
    assert result.code == 0, result.err
    assert "context-store-1" in result.out
    assert "%" in result.out


def test_a_shard_that_is_none_is_named(isthmus: Isthmus) -> None:
    error = isthmus("shards", "drain", "gateway-0", "--json").error
    assert error["reason"] == "UNKNOWN_PROCESS"
    assert "context-store-0, context-store-1" in error["message"]


def test_without_a_mesh_there_are_no_shards(alone: Isthmus) -> None:
    for command in (["list"], ["add"], ["drain", "context-store-0"]):
        assert alone("shards", *command, "--json").error["reason"] == "MESH_NOT_FOUND"
