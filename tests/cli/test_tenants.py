"""`tenants`, and how the other commands come by their API key."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access import ApiKey
from services.cli.duration import parse_ms
from services.cli.errors import CliError
from services.cli.key_file import read_key, write_key
from services.cli.target import Target, target
from services.cli.tenants import mesh_settings
from services.supervisor.home import Home
from tests.cli.conftest import Isthmus, end, read_document
from tests.support.processes import until

FREE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
KEYED = {"ISTHMUS_GATEWAY__ACCESS__MODE": "keys", "ISTHMUS_GATEWAY__ACCESS__CACHE_MS_MAX": "50"}
KEY = ApiKey("a" * 12, "a" * 32).text


@pytest.fixture(scope="module")
def keyed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A mesh that wants keys, as its first `isthmus up --json` describes it."""
    home = tmp_path_factory.mktemp("keyed") / "home"
    process = Isthmus(KEYED).spawn("up", "--json", "--engine", "scripted", "--shards", "1", "--home", str(home), *FREE)
    yield read_document(process)
    end(process)


@pytest.fixture
def keyed(keyed_up: Any) -> Isthmus:
    """The command, with that mesh as its home."""
    return Isthmus({"ISTHMUS_HOME": keyed_up["home"]})


@pytest.fixture
def elsewhere(tmp_path: Path, keyed_up: Any) -> Isthmus:
    """The command on another machine, which knows the gateway's address alone."""
    return Isthmus({"ISTHMUS_HOME": str(tmp_path / "nobody"), "ISTHMUS_GRPC": keyed_up["grpc"]})


def test_the_first_start_makes_a_key_for_the_home(keyed: Isthmus, keyed_up: Any) -> None:
    assert keyed_up["turn"]["state"] == "done"
    file = Path(keyed_up["home"]) / "api-key"
    assert keyed_up["api_key_file"] == str(file)
    assert file.read_text() == f"{keyed_up['api_key']}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (row,) = keyed("tenants", "keys", "local", "--json").json["keys"]
    assert (row["id"], row["tenant"], row["state"]) == (keyed_up["api_key"][4:16], "local", "active")
    assert keyed("ask", "Hello", "--session", "s1", "--json").json["turn"]["state"] == "done"
    assert "s1" in keyed("sessions").out


def test_the_key_is_shown_once_and_serves_after_the_next_start(tmp_path: Path) -> None:
    isthmus = Isthmus({**KEYED, "ISTHMUS_HOME": str(tmp_path / "home")})
    first = isthmus("up", "--once", "--json", "--engine", "scripted", "--shards", "1", *FREE).json
    second = isthmus("up", "--once", "--engine", "scripted", "--shards", "1", *FREE)
    assert second.code == 0, second.err
    assert first["api_key"] == (tmp_path / "home" / "api-key").read_text().strip()
    assert first["api_key"] not in second.out


def test_a_key_comes_by_flag_or_variable_and_the_homes_goes_nowhere_else(elsewhere: Isthmus, keyed_up: Any) -> None:
    ask = ("ask", "Hello", "--session", "s2", "--json")
    error = elsewhere(*ask).error
    assert error["reason"] == "UNAUTHENTICATED"
    assert "no API key came with the call" in error["message"]
    assert elsewhere(*ask, "--api-key", keyed_up["api_key"]).json["turn"]["state"] == "done"
    variables = {"ISTHMUS_GRPC": keyed_up["grpc"], "ISTHMUS_API_KEY": keyed_up["api_key"]}
    assert Isthmus(variables)(*ask).json["turn"]["state"] == "done"
    wrong = elsewhere(*ask, "--api-key", "isk-none").error
    assert (wrong["reason"], "8 characters, expected 56" in wrong["message"]) == ("USAGE", True)
    home = Isthmus({"ISTHMUS_HOME": keyed_up["home"]})
    assert home(*ask, "--grpc", keyed_up["grpc"]).error["reason"] == "UNAUTHENTICATED"


def test_a_tenants_keys_from_the_first_to_the_last(keyed: Isthmus, elsewhere: Isthmus, keyed_up: Any) -> None:
    made = keyed("tenants", "create-key", "acme", "--name", "ci", "--expires-in", "30d", "--json").json
    key, row = made["api_key"], made["key"]
    assert (row["tenant"], row["name"], row["state"]) == ("acme", "ci", "active")
    assert row["scopes"] == ["turns", "sessions.read", "sessions.write"]
    assert elsewhere("ask", "Hello", "--session", "s1", "--api-key", key, "--json").json["turn"]["number"] == 1
    mine = elsewhere("sessions", "list", "--api-key", key, "--json").json["sessions"]
    assert [each["name"] for each in mine] == ["sessions/s1"]

    successor = keyed("tenants", "rotate-key", row["id"], "--grace", "1h", "--json").json
    for each in (key, successor["api_key"]):
        assert elsewhere("sessions", "--api-key", each).code == 0
    # A whole key is taken for its id, and is not told to anybody.
    revoked = keyed("tenants", "revoke-key", key)
    assert revoked.out == f"{row['id']} of acme is revoked\n"
    until(lambda: elsewhere("sessions", "--api-key", key).code == 1, 20, "the revoked key is refused")
    assert "was revoked at" in elsewhere("sessions", "--api-key", key).err
    assert elsewhere("sessions", "--api-key", successor["api_key"]).code == 0

    listed = keyed("tenants", "keys", "acme")
    assert listed.code == 0, listed.err
    assert re.search(rf"{row['id']} +acme +revoked", listed.out)
    assert re.search(rf"{successor['key']['id']} +acme +active .* ci", listed.out)
    narrow = Isthmus({"ISTHMUS_HOME": keyed_up["home"], "COLUMNS": "60"})("tenants", "keys", "acme").out
    assert re.search(rf"{row['id']} +acme +revoked +[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} ", narrow)
    for secret in (key, successor["api_key"]):
        assert secret[17:] not in listed.out


def test_a_rotation_of_the_homes_own_key_is_written_to_its_file(keyed: Isthmus, keyed_up: Any) -> None:
    file = Path(keyed_up["home"]) / "api-key"
    successor = keyed("tenants", "rotate-key", f"isk-{file.read_text()[4:16]}", "--grace", "1h", "--json").json
    assert file.read_text() == f"{successor['api_key']}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keyed("ask", "Hello", "--session", "s1", "--json").json["turn"]["state"] == "done"


def test_a_key_with_fewer_scopes(keyed: Isthmus, elsewhere: Isthmus) -> None:
    result = keyed("tenants", "create-key", "acme", "--scope", "sessions.read", "--scope", "turns")
    key = result.out.strip()
    assert re.fullmatch(r"isk-[a-z2-7]{12}-[a-z2-7]{39}", key)
    assert "it is not shown again" in result.err
    assert elsewhere("sessions", "list", "--api-key", key).code == 0
    error = elsewhere("sessions", "delete", "s1", "--api-key", key, "--json").error
    assert error["reason"] == "PERMISSION_DENIED"
    assert error["metadata"] == {"scope": "sessions.write"}


def test_what_was_done_to_keys_is_in_the_audit_log(keyed: Isthmus, keyed_up: Any) -> None:
    made = keyed("tenants", "create-key", "noted", "--json").json
    keyed("tenants", "rotate-key", made["key"]["id"])
    keyed("tenants", "revoke-key", made["key"]["id"])
    keyed("tenants", "revoke-key", "b" * 12)
    log = Home(Path(keyed_up["home"])).audit
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()][-4:]
    assert [(each["event"], each["result"]) for each in lines] == [
        ("key_created", "done"),
        ("key_rotated", "done"),
        ("key_revoked", "done"),
        ("key_revoked", "NOT_FOUND"),
    ]
    assert {each["key"] for each in lines[:3]} == {made["key"]["id"]}
    assert {each["tenant"] for each in lines[:3]} == {"noted"}
    assert all("@" in each["by"] and each["timestamp"] for each in lines)
    assert made["api_key"][17:49] not in text


def test_a_refusal_is_in_the_gateways_log(elsewhere: Isthmus, keyed_up: Any) -> None:
    assert elsewhere("sessions", "--api-key", KEY).code == 1

    def noted() -> bool:
        lines = Path(keyed_up["log"]).read_text().splitlines()
        return any("access_refused" in line and "aaaaaaaaaaaa" in line and "unknown" in line for line in lines)

    until(noted, 20, "the refusal is logged")


@pytest.mark.parametrize(
    ("arguments", "reason", "said"),
    [
        (("create-key", "acme"), "MESH_NOT_FOUND", "--config FILE or ISTHMUS_VALKEY__URL"),
        (("create-key", "acme", "--scope", "all"), "USAGE", "--scope 'all': expected one of turns, sessions.read"),
        (("create-key", "acme", "--expires-in", "1 year"), "USAGE", "--expires-in '1 year': expected a number with"),
        (("rotate-key", "a" * 12, "--grace", "h"), "USAGE", "--grace 'h'"),
        (("revoke-key", "nothing"), "USAGE", "ID: expected the id of a key"),
        (("keys", "--config", "/nowhere.toml"), "CONFIG", "/nowhere.toml"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    alone: Isthmus, arguments: tuple[str, ...], reason: str, said: str
) -> None:
    error = alone("tenants", *arguments, "--json").error
    assert error["reason"] == reason
    assert said in error["message"]
    assert len(alone("tenants", *arguments).err.splitlines()) == 1


def test_a_valkey_that_is_away_is_told(alone: Isthmus, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[valkey]\nurl = "redis://127.0.0.1:1"\nretries_count_max = 0\n')
    error = alone("tenants", "keys", "--config", str(file), "--json").error
    assert error["reason"] == "UPSTREAM_UNAVAILABLE"


def test_wrong_tenants_are_named(keyed: Isthmus) -> None:
    error = keyed("tenants", "create-key", "Not A Tenant", "--json").error
    assert (error["reason"], "tenant: is 'Not A Tenant'" in error["message"]) == ("USAGE", True)


def test_config_says_where_a_setting_of_access_came_from() -> None:
    document = Isthmus(KEYED)("config", "--json").json
    assert document["settings"]["gateway"]["access"]["mode"] == "keys"
    assert document["sources"]["gateway.access"] == ", ".join(sorted(KEYED))
    wrong = Isthmus({"ISTHMUS_GATEWAY__ACCESS__MODE": "key"})("config", "--json").error
    assert "gateway.access.mode: Input should be 'open', 'keys', 'jwt' or 'keys+jwt'" in wrong["message"]


@given(st.integers(0, 999_999_999), st.sampled_from([("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]))
def test_a_span_is_a_number_and_its_unit(count: int, unit: tuple[str, int]) -> None:
    assert parse_ms(f"{count}{unit[0]}") == count * unit[1]


@given(st.text(max_size=6))
def test_other_spans_are_refused(text: str) -> None:
    if not re.fullmatch(r"[0-9]+[smhd]", text):
        with pytest.raises(ValueError, match="expected a number with s, m, h or d"):
            parse_ms(text)


def test_a_key_is_written_for_its_user_alone_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    assert read_key(home) == ""
    write_key(home, KEY)
    write_key(home, KEY)
    assert read_key(home) == KEY
    assert stat.S_IMODE(home.api_key.stat().st_mode) == 0o600
    home.api_key.write_bytes(b"\xff")
    with pytest.raises(CliError, match="cannot be read as an API key"):
        read_key(home)
    monkeypatch.setenv("ISTHMUS_API_KEY", "")
    assert target("127.0.0.1:1", None, None) == Target("127.0.0.1:1", "")


def test_the_environment_names_the_valkey_where_no_mesh_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    monkeypatch.setenv("ISTHMUS_VALKEY__URL", "redis://one:1")
    assert mesh_settings(None, None).valkey.url == "redis://one:1"
    assert mesh_settings(None, None).mesh.home == tmp_path
    monkeypatch.setenv("ISTHMUS_SUPERVISOR__VALKEY", "redis://two:2")
    assert mesh_settings(None, None).valkey.url == "redis://two:2"
