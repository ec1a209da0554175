"""`up`, `status` and `config`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.supervisor import state
from services.supervisor.home import Home
from tests.cli.conftest import Isthmus, end, read_document
from tests.support.processes import ProcessMesh, until

FREE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")


def test_up_shows_a_real_turn(up: Any) -> None:
    assert up["session"] == "hello"
    assert up["turn"]["state"] == "done"
    assert up["text"] == up["turn"]["output_text"] != ""
    receipt = up["turn"]["receipt"]
    names = {hop["name"] for hop in receipt["hops"]}
    assert {"gateway.context_store", "gateway.inference", "inference.engine"} <= names
    assert receipt["tokens"]["output_tokens"] > 0
    assert receipt["ttft_ms"] > 0
    assert not up["grpc"].endswith(":0")
    assert not up["http"].endswith(":0")


def test_status_names_every_process(isthmus: Isthmus, up: Any) -> None:
    status = isthmus("status", "--json").json

    assert status["ready"]
    assert status["grpc"] == up["grpc"]
    rooms = sorted(each["room"] for each in status["processes"])
    assert rooms == ["compressor", "context_store", "context_store", "gateway", "inference", "valkey"]
    assert {each["state"] for each in status["processes"]} == {"ready"}
    assert all(each["pid"] and each["endpoint"] for each in status["processes"])


def test_status_says_which_node_is_the_primary(isthmus: Isthmus, up: Any) -> None:
    by_room = {each["room"]: each for each in isthmus("status", "--json").json["processes"]}
    assert by_room["valkey"]["role"] == "primary"
    assert "role" not in by_room["gateway"]
    assert f"http://{by_room['gateway']['http']}" == up["http"]


def test_status_for_people(isthmus: Isthmus, up: Any) -> None:
    result = isthmus("status")
    assert result.code == 0
    assert "context-store-1" in result.out
    assert up["http"] in result.out


def test_status_of_a_gateway_by_its_address(alone: Isthmus, up: Any) -> None:
    assert alone("status", "--grpc", up["grpc"], "--json").json["ready"]
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        away = f"127.0.0.1:{nobody.getsockname()[1]}"
    result = alone("status", "--grpc", away)
    assert result.code == 1
    assert "away" in result.out


def test_once_stops_cleanly_and_the_data_is_there_again(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    isthmus = Isthmus({"ISTHMUS_HOME": home})
    first = isthmus("up", "--once", "--json", "--engine", "scripted", *FREE).json
    second = isthmus("up", "--once", "--engine", "scripted", "--shards", "1", *FREE)

    assert first["turn"]["number"] == 1
    assert second.code == 0, second.err
    assert "Isthmus is up after" in second.out
    assert "gateway.context_store" in second.out
    assert not Home(Path(home)).mesh.exists()


def test_a_second_up_on_the_home_is_refused(isthmus: Isthmus, up: Any) -> None:
    error = isthmus("up", "--json", *FREE).error
    assert error["reason"] == "HOME_IN_USE"
    assert f"pid {up['pid']}" in error["message"]
    assert up["home"] in error["message"]


def test_a_taken_address_says_which_flag_to_change(alone: Isthmus) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        result = alone("up", "--http", address, "--grpc", "127.0.0.1:0")
    assert result.code == 1
    assert result.err.startswith(f"isthmus: --http {address}: the address is already in use")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--engine", "gpt"], "expected 'local', 'vllm', 'scripted', or 'openai:'"),
        (["up", "--engine", "openai:ftp://x"], "expected 'local', 'vllm', 'scripted', or 'openai:'"),
        (["up", "--model", "m"], "--engine vllm"),
        (["up", "--engine", "vllm"], "make setup-vllm"),
        (["up", "--http", "8080"], "--http '8080': expected HOST:PORT"),
        (["up", "--shards", "0"], "mesh.shards"),
        (["up", "--gateways", "0"], "mesh.gateways"),
        (["up", "--valkey", "several"], "--valkey: expected single, cluster or a URL"),
        (["up", "--valkey", "redis://me:secret@a:1,b:2"], "redis://me:***@a:1,b:2"),
        (["up", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["up", "--port", "1"], "--port"),
        (["nothing"], "nothing"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(alone: Isthmus, arguments: list[str], said: str) -> None:
    result = alone(*arguments)
    assert result.code == 2
    assert result.err.startswith("isthmus: ")
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert alone(*arguments, "--json").error["message"] in result.err


def test_a_killed_room_is_back_in_the_status(isthmus: Isthmus, up: Any) -> None:
    before = _process(isthmus, "compressor-0")
    os.kill(before["pid"], signal.SIGKILL)

    def back() -> bool:
        now = _recorded(up, "compressor-0")
        return now.restarts == 1 and now.phase is state.ProcessPhase.READY

    until(back, 20, "the compressor is ready again")
    after = _process(isthmus, "compressor-0")
    assert after["restarts"] == 1
    assert after["endpoint"] == before["endpoint"]


def test_a_killed_mesh_goes_on_after_the_next_start(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    isthmus = Isthmus({"ISTHMUS_HOME": str(home.path)})
    killed = isthmus.spawn("up", "--json", "--engine", "scripted", *FREE)
    first = read_document(killed)
    end(killed, signal.SIGKILL)
    assert isthmus("status", "--json").error["reason"] == "MESH_NOT_FOUND"

    process = isthmus.spawn("up", "--json", "--engine", "scripted", *FREE)
    second = read_document(process)
    assert second["turn"]["number"] == first["turn"]["number"] + 1

    end(process, signal.SIGINT)
    assert process.returncode == 0
    assert not home.mesh.exists()


@pytest.mark.timeout(240)
def test_a_mesh_on_a_cluster_outlives_a_primary_and_a_restart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    isthmus = Isthmus({"ISTHMUS_HOME": str(home)})
    mesh = ProcessMesh(home, "--valkey", "cluster", "--gateways", "2")
    mesh.start()
    try:
        assert _turn_number(isthmus, mesh.gateways[0]) == 1
        processes = isthmus("status", "--json").json["processes"]
        roles = [each["role"] for each in processes if each["room"] == "valkey"]
        assert sorted(roles) == ["primary"] * 3 + ["replica"] * 3

        primaries = [each["name"] for each in processes if each.get("role") == "primary"]
        for victim in primaries:
            mesh.kill(victim)
        assert _turn_number(isthmus, mesh.gateways[1]) == 2
        mesh.recover(primaries[-1])

        mesh.stop()
        mesh.start()
        assert _turn_number(isthmus, mesh.gateways[1]) == 3
    finally:
        mesh.stop()


def test_a_valkey_of_ones_own_that_is_away_is_one_clear_line(alone: Isthmus) -> None:
    error = alone("up", "--json", "--valkey", "redis://me:secret@127.0.0.1:1", *FREE).error
    assert error["reason"] == "VALKEY_UNUSABLE"
    assert "redis://me:***@127.0.0.1:1 cannot be reached" in error["message"]


def test_config_says_where_a_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[mesh]\nshards = 3\n")
    isthmus = Isthmus({"ISTHMUS_MESH__REPLICAS": "2"})

    document = isthmus("config", "--config", str(file), "--json").json

    assert document["settings"]["mesh"]["shards"] == 3
    assert document["sources"]["mesh.shards"] == str(file)
    assert document["settings"]["mesh"]["replicas"] == 2
    assert document["sources"]["mesh.replicas"] == "ISTHMUS_MESH__REPLICAS"
    assert document["sources"]["mesh.name"] == "default"
    assert "mesh.shards" in isthmus("config").out


def test_config_tells_no_password() -> None:
    url = "rediss+cluster://me:secret@one:1,two:2"
    isthmus = Isthmus({"ISTHMUS_VALKEY__URL": url, "ISTHMUS_SUPERVISOR__VALKEY": url})
    for result in (isthmus("config"), isthmus("config", "--json")):
        assert "secret" not in result.out
        assert result.out.count("rediss+cluster://me:***@one:1,two:2") == 2


def test_config_refuses_a_key_that_nobody_knows(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[mesh]\nshard = 3\n")
    result = Isthmus({})("config", "--config", str(file))
    assert result.code == 2
    assert "mesh.shard: unknown key; did you mean 'shards'?" in result.err


def test_the_version_is_the_distributions(alone: Isthmus) -> None:
    assert alone("--version").out.startswith("isthmus 0.")


def test_the_command_line_itself_loads_nothing_heavy() -> None:
    script = "import sys, services.cli.app; print({'grpc', 'pydantic', 'redis', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"


def _turn_number(isthmus: Isthmus, gateway: str) -> int:
    number: int = isthmus("ask", "Go on.", "--session", "lasting", "--grpc", gateway, "--json").json["turn"]["number"]
    return number


def _process(isthmus: Isthmus, name: str) -> Any:
    return next(each for each in isthmus("status", "--json").json["processes"] if each["name"] == name)


def _recorded(up: Any, name: str) -> state.ProcessState:
    mesh = state.read(Home(Path(up["home"])).mesh)
    assert mesh is not None
    return next(each for each in mesh.processes if each.name == name)
