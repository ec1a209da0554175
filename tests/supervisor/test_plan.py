from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import ConfigError, ValkeySettings, load_settings
from services.supervisor.plan import (
    Allowance,
    Plan,
    RoomPlan,
    ValkeyMode,
    ValkeyPlan,
    child_environment,
    inner_addresses,
    mesh_plan,
    rooms,
    shard_spec,
    valkey_spec,
)
from services.supervisor.ports import Address
from services.supervisor.replicas import environments, with_all_named

GATEWAY_GRPC = Address("0.0.0.0", 8081)
GATEWAY_HTTP = Address("127.0.0.1", 8080)


def plan_of(shards: int, replicas: int, gateways: int = 1) -> Plan:
    names = rooms(shards, replicas)
    ports = range(20_001, 20_001 + len(names))
    store = ValkeyPlan(
        ValkeyMode.SINGLE,
        ValkeySettings(),
        (valkey_spec("valkey", ["/bin/valkey", "/home/valkey.conf"], Address("127.0.0.1", 20_000)),),
    )
    others = [(Address("0.0.0.0", 30_000 + 2 * n), Address("127.0.0.1", 30_001 + 2 * n)) for n in range(gateways - 1)]
    return mesh_plan(
        RoomPlan("/bin/python", {"A": "b"}),
        store,
        gateways=[(GATEWAY_GRPC, GATEWAY_HTTP), *others],
        inner=inner_addresses(names, "127.0.0.1", ports),
        metrics=[Address("127.0.0.1", 25_000 + number) for number in range(replicas)],
    )


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_every_process_has_a_name_and_an_address_of_its_own(shards: int, replicas: int, gateways: int) -> None:
    plan = plan_of(shards, replicas, gateways)
    assert len(plan.processes) == shards + replicas + gateways + 2
    assert len({each.name for each in plan.processes}) == len(plan.processes)
    assert len({each.address for each in plan.processes}) == len(plan.processes)
    assert sum(each.room == "context_store" for each in plan.processes) == shards
    assert sum(each.room == "inference" for each in plan.processes) == replicas
    assert next(each.http for each in plan.processes if each.room == "gateway") == plan.http == GATEWAY_HTTP


def test_one_more_shard_is_like_the_others() -> None:
    plan = plan_of(2, 1)
    added = shard_spec(plan, 2, Address("127.0.0.1", 29_999))
    like = next(each for each in plan.processes if each.name == "context-store-1")
    assert added.name == "context-store-2"
    assert added.argv[-4:] == ("--member", "context-store-2", "--listen", "127.0.0.1:29999")
    assert replace(added, name=like.name, argv=like.argv, address=like.address) == like


def test_every_process_of_a_room_has_what_the_room_is_allowed() -> None:
    allowance = Allowance(1, 2, "vllm")
    rooms_plan = RoomPlan("/bin/python", {}, {"inference": allowance})
    made = {room: rooms_plan.spec(room, 1, GATEWAY_GRPC).allowance for room in ("inference", "context_store")}
    assert made == {"inference": allowance, "context_store": Allowance()}


def test_a_replica_has_settings_of_its_own_and_the_others_have_not() -> None:
    rooms_plan = RoomPlan("/bin/python", {"A": "b"}, replicas=[{"ISTHMUS_INFERENCE__POOL": "large"}])
    made = [rooms_plan.spec(room, number, GATEWAY_GRPC) for room in ("inference", "context_store") for number in (0, 1)]
    assert [dict(each.environment) for each in made] == [
        {"A": "b", "ISTHMUS_INFERENCE__POOL": "large"},
        *[{"A": "b"}] * 3,
    ]


def test_as_many_replicas_as_are_named_with_what_is_theirs() -> None:
    named = [
        {"inference": {"engine": "scripted", "pool": "large", "context_tokens_max": 4_096}},
        {"openai": {"vllm_fields": False}, "vllm": {"engine_args": {"seed": 1}}},
    ]
    settings = load_settings(supervisor={"replicas": named})
    assert with_all_named(settings).mesh.replicas == 2
    assert with_all_named(load_settings(mesh={"replicas": 3}, supervisor={"replicas": named})).mesh.replicas == 3
    first, second = environments(settings)
    assert first == {
        "ISTHMUS_INFERENCE__ENGINE": "scripted",
        "ISTHMUS_INFERENCE__POOL": "large",
        "ISTHMUS_INFERENCE__CONTEXT_TOKENS_MAX": "4096",
    }
    assert second == {"ISTHMUS_OPENAI__VLLM_FIELDS": "false", "ISTHMUS_VLLM__ENGINE_ARGS": '{"seed": 1}'}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"inferences": {}}, r"supervisor\.replicas\[0\]\.inferences: unknown section"),
        ({"inference": {"pool": "Large"}}, r"supervisor\.replicas\[0\]\.inference: pool: "),
        ({"inference": {"pol": "large"}}, r"pol: unknown key"),
    ],
)
def test_a_replicas_own_settings_are_checked_before_it_starts(named: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(supervisor={"replicas": [named]})


def test_valkey_is_first_to_come_and_last_to_go() -> None:
    plan = plan_of(2, 1)
    valkey, *others = plan.processes
    assert all(valkey.start_stage < each.start_stage for each in others)
    stop = {each.room: each.stop_stage for each in plan.processes}
    assert stop["gateway"] < stop["inference"] <= stop["compressor"] < stop["context_store"] < stop["valkey"]


def test_a_room_is_told_who_it_is_and_where_to_listen() -> None:
    by_name = {each.name: each for each in plan_of(2, 1).processes}
    assert by_name["context-store-1"].argv == (
        *("/bin/python", "-P", "-m", "context_store"),
        *("--member", "context-store-1", "--listen", "127.0.0.1:20003"),
    )
    assert by_name["gateway-0"].argv[-4:] == ("--listen", "0.0.0.0:8081", "--http", "127.0.0.1:8080")


def test_rooms_have_their_settings_from_the_file_alone() -> None:
    inherited = {"PATH": "/bin", "ISTHMUS_VALKEY__URL": "redis://elsewhere", "ISTHMUS_CONFIG": "mine.toml"}
    seen = child_environment(inherited, "/home/settings.json")
    assert seen["PATH"] == "/bin"
    assert {key: value for key, value in seen.items() if key.startswith("ISTHMUS")} == {
        "ISTHMUS_CONFIG": "/home/settings.json"
    }
