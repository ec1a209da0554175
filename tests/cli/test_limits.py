"""`tenants set-limits` and `tenants limits`, against a mesh that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.supervisor.home import Home
from tests.cli.conftest import Isthmus, end, read_document
from tests.support.processes import until

FREE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
SOON = {"ISTHMUS_GATEWAY__LIMITS__OVERRIDES_INTERVAL_MS": "50"}


@pytest.fixture(scope="module")
def limited_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A mesh without limits in its configuration."""
    home = tmp_path_factory.mktemp("limited") / "home"
    process = Isthmus(SOON).spawn("up", "--json", "--engine", "scripted", "--shards", "1", "--home", str(home), *FREE)
    yield read_document(process)
    end(process)


@pytest.fixture
def limited(limited_up: Any) -> Isthmus:
    """The command, with that mesh as its home."""
    return Isthmus({"ISTHMUS_HOME": limited_up["home"]})


def test_limits_are_set_kept_used_up_and_taken_away(limited: Isthmus) -> None:
    asked = ("--requests-per-minute", "1", "--turns-concurrent", "2", "--budget-monthly", "0.50")
    (row,) = limited("tenants", "set-limits", "local", *asked, "--json").json["limits"]
    assert (row["tenant"], row["of"], row["currency"]) == ("local", "tenant", "USD")
    assert row["limits"]["requests_per_minute"] == {"limit": 1, "is_own": True, "used": 0}
    assert row["limits"]["tokens_per_minute"] == {"limit": None, "is_own": False, "used": None}
    assert row["limits"]["budget_monthly_micros"]["limit"] == 500_000

    until(lambda: limited("sessions").code == 1, 20, "the limit is in force and used up")
    error = limited("sessions", "list", "--json").error
    assert error["reason"] == "RATE_LIMITED"
    assert "tenants/local: requests per minute: 0 of 1 are left" in error["message"]
    shown = limited("tenants", "limits", "local").out
    assert "of 1*" in shown
    assert "0.00 of 0.50 USD*" in shown

    reset = ("--requests-per-minute", "default", "--turns-concurrent", "none", "--budget-monthly", "default")
    (row,) = limited("tenants", "set-limits", "local", *reset, "--json").json["limits"]
    assert row["limits"]["requests_per_minute"]["limit"] is None
    assert row["limits"]["turns_concurrent"] == {"limit": None, "is_own": True, "used": None}
    until(lambda: limited("sessions").code == 0, 20, "the limit is gone")


def test_users_and_addresses_have_limits_too(limited: Isthmus) -> None:
    limited("tenants", "set-limits", "acme", "--for", "user", "--tokens-per-minute", "1000")
    rows = limited("tenants", "set-limits", "acme", "--for", "address", "--requests-per-minute", "60", "--json").json
    assert [(row["of"], row["name"]) for row in rows["limits"]] == [("tenant", "acme"), ("user", ""), ("address", "")]
    of_ann = limited("tenants", "limits", "acme", "--user", "ann", "--json").json["limits"][1]
    assert (of_ann["name"], of_ann["limits"]["tokens_per_minute"]["used"]) == ("ann", 0)
    everybody = limited("tenants", "limits", "--json").json["limits"]
    assert {row["tenant"] for row in everybody} == {"acme", "local"}
    assert "user (each)" in limited("tenants", "limits", "acme").out


def test_what_was_done_to_limits_is_in_the_audit_log(limited: Isthmus, limited_up: Any) -> None:
    limited("tenants", "set-limits", "noted", "--turns-concurrent", "7")
    line = json.loads(Home(Path(limited_up["home"])).audit.read_text().splitlines()[-1])
    assert (line["event"], line["result"], line["tenant"], line["of"]) == ("limits_set", "done", "noted", "tenant")
    assert line["--turns-concurrent"] == "7"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set-limits", "acme"), "nothing is set; expected some of --requests-per-minute"),
        (("set-limits", "No", "--turns-concurrent", "1"), "TENANT: is 'No', expected 1 to 63"),
        (("set-limits", "acme", "--turns-concurrent", "some"), "--turns-concurrent 'some': expected a number"),
        (("set-limits", "acme", "--requests-per-minute", "0"), "--requests-per-minute 0: expected 1 to"),
        (("set-limits", "acme", "--budget-monthly", "-1"), "--budget-monthly '-1': expected an amount above 0"),
        (("set-limits", "acme", "--for", "moon", "--turns-concurrent", "1"), "--for 'moon': expected one of tenant"),
        (("limits", "--user", "ann"), "expected TENANT with it"),
    ],
)
def test_what_cannot_be_set_is_said_in_one_line(alone: Isthmus, arguments: tuple[str, ...], said: str) -> None:
    error = alone("tenants", *arguments, "--json").error
    assert error["reason"] == "USAGE"
    assert said in error["message"]
