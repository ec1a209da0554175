"""`pools`: list, show, drain, resume."""

from __future__ import annotations

from tests.cli.conftest import Isthmus


def test_a_pool_is_seen_drained_and_taken_back(isthmus: Isthmus) -> None:
    assert isthmus("ask", "Hello", "--session", "pooled", "--json").json["turn"]["state"] == "done"
    (pool,) = isthmus("pools", "--json").json["pools"]
    assert (pool["name"], pool["breaker"], pool["calls_failed"]) == ("pools/default", "closed", 0)
    assert pool["calls"] > 0
    assert [each["state"] for each in pool["replicas"]] == ["ready"]

    assert "drain_time" in isthmus("pools", "drain", "default", "--json").json["pool"]
    assert "default, drained" in isthmus("pools", "show", "default").out
    error = isthmus("ask", "Hello", "--session", "pooled", "--json").error
    assert error["reason"] == "UPSTREAM_UNAVAILABLE"
    assert "default is drained by hand" in error["message"]

    assert "drain_time" not in isthmus("pools", "resume", "default", "--json").json["pool"]
    assert isthmus("ask", "Hello", "--session", "pooled", "--json").json["turn"]["state"] == "done"


def test_pools_for_people(isthmus: Isthmus) -> None:
    listed, shown = isthmus("pools"), isthmus("pools", "show", "pools/default")
    assert (listed.code, shown.code) == (0, 0), listed.err + shown.err
    assert "default" in listed.out
    assert "as gateway-0 sees them" in listed.out
    assert "inference-0" in shown.out


def test_a_pool_that_is_none_is_named(isthmus: Isthmus) -> None:
    for command in ("show", "drain", "resume"):
        error = isthmus("pools", command, "nobody", "--json").error
        assert (error["reason"], error["message"][:13]) == ("NOT_FOUND", "pools/nobody ")
    assert isthmus("pools", "drain", "No Name", "--json").error["reason"] == "INVALID_FIELD"


def test_without_a_mesh_there_are_no_pools(alone: Isthmus) -> None:
    for command in (["list"], ["show", "default"], ["drain", "default"], ["resume", "default"]):
        assert alone("pools", *command, "--json").error["reason"] == "MESH_NOT_FOUND"
