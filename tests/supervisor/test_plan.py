from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.plan import Plan, child_environment, inner_addresses, mesh_plan, rooms
from services.supervisor.ports import Address

GATEWAY_GRPC = Address("0.0.0.0", 8081)
GATEWAY_HTTP = Address("127.0.0.1", 8080)


def plan_of(shards: int, replicas: int) -> Plan:
    names = rooms(shards, replicas)
    ports = range(20_001, 20_001 + len(names))
    return mesh_plan(
        "/bin/python",
        ["/bin/valkey", "/home/valkey.conf"],
        {"A": "b"},
        grpc=GATEWAY_GRPC,
        http=GATEWAY_HTTP,
        valkey=Address("127.0.0.1", 20_000),
        inner=inner_addresses(names, "127.0.0.1", ports),
    )


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_process_has_a_name_and_an_address_of_its_own(shards: int, replicas: int) -> None:
    plan = plan_of(shards, replicas)
    assert len(plan.processes) == shards + replicas + 3
    assert len({each.name for each in plan.processes}) == len(plan.processes)
    assert len({each.address for each in plan.processes}) == len(plan.processes)
    assert sum(each.room == "context_store" for each in plan.processes) == shards
    assert sum(each.room == "inference" for each in plan.processes) == replicas


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
