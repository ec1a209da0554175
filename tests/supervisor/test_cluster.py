"""What nodes are told so that they become one cluster, wherever an earlier attempt was cut off."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.supervisor import cluster
from services.supervisor.cluster import NODES_COUNT, SLOTS_COUNT, Node, Step, View
from services.supervisor.ports import Address

ADDRESSES = [(Address("127.0.0.1", 7_000 + number), 17_000 + number) for number in range(NODES_COUNT)]
# More rounds than there are kinds of commands; each lets gossip spread.
ROUNDS_MAX = 12

NODES_CONF = """\
07c37dfeb235213a872192d9 127.0.0.1:30004@31004,,tls-port=0,shard-id=6996 slave e7d1eecc 0 1426 4 connected
67ed2db8d677e59ec4a4cefb 127.0.0.1:30002@31002,host,shard-id=22 master - 0 1426 2 connected 5461-10922 [7-<-e7]
e7d1eecce10fd6bb5eb35b9f 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 16000
vars currentEpoch 6 lastVoteEpoch 0
"""


@dataclass
class Server:
    """A node as the model has it."""

    id: str
    known: set[int]
    slots: tuple[tuple[int, int], ...] = ()
    primary: int | None = None


class Model:
    """Nodes that do what they are told, each command taking effect whole or, for a meeting, on one side alone."""

    def __init__(self) -> None:
        self.servers = [Server(f"node-{number}", {number}) for number in range(NODES_COUNT)]

    def views(self) -> list[View]:
        return [self._view(number) for number in range(NODES_COUNT)]

    def take(self, step: Step, *, halfway: bool = False) -> None:
        server = self.servers[step.number]
        match step.command:
            case ("CLUSTER", "MEET", host, port, bus):
                other = ADDRESSES.index((Address(host, int(port)), int(bus)))
                server.known.add(other)
                if not halfway:
                    self.servers[other].known.add(step.number)
            case ("CLUSTER", "ADDSLOTSRANGE", *bounds):
                assert server.primary is None
                added = tuple((int(first), int(last)) for first, last in zip(bounds[::2], bounds[1::2], strict=True))
                assert not any(set(added) & set(each.slots) for each in self.servers)
                server.slots += added
            case ("CLUSTER", "REPLICATE", primary):
                assert not server.slots
                chosen = next(number for number, each in enumerate(self.servers) if each.id == primary)
                assert chosen in server.known
                assert self.servers[chosen].slots
                server.primary = chosen
            case _:
                raise AssertionError(step)

    def gossip(self) -> None:
        """Who knows each other tells whom else he knows."""
        for number, server in enumerate(self.servers):
            for other in tuple(server.known):
                if number in self.servers[other].known:
                    server.known |= self.servers[other].known

    def _view(self, number: int) -> View:
        nodes = tuple(self._node(each, myself=each == number) for each in sorted(self.servers[number].known))
        served = sum(last - first + 1 for each in self.servers for first, last in each.slots)
        return View(nodes, served == SLOTS_COUNT, served, True)

    def _node(self, number: int, *, myself: bool) -> Node:
        server = self.servers[number]
        flags = {"master" if server.primary is None else "slave"} | ({"myself"} if myself else set())
        primary = None if server.primary is None else self.servers[server.primary].id
        return Node(server.id, frozenset(flags), primary, server.slots if myself else ())


@given(st.data())
def test_a_bootstrap_cut_short_anywhere_is_finished(data: st.DataObject) -> None:
    model = Model()
    for _ in range(data.draw(st.integers(0, 4), label="rounds before the cut")):
        steps = cluster.next_steps(model.views(), ADDRESSES)
        kept = data.draw(st.lists(st.sampled_from(steps), unique=True), label="taken") if steps else []
        for step in kept:
            model.take(step, halfway=data.draw(st.booleans(), label="half a meeting"))
        model.gossip()

    for _ in range(ROUNDS_MAX):
        for step in cluster.next_steps(model.views(), ADDRESSES):
            model.take(step)
        model.gossip()

    assert cluster.unready(model.views()) is None
    assert cluster.next_steps(model.views(), ADDRESSES) == []
    primaries = [number for number, each in enumerate(model.servers) if each.slots]
    assert len(primaries) == cluster.PRIMARIES_COUNT
    assert sorted(each.primary for each in model.servers if each.primary is not None) == primaries


def test_a_cluster_that_has_failed_over_is_left_as_it_is() -> None:
    model = Model()
    for _ in range(ROUNDS_MAX):
        for step in cluster.next_steps(model.views(), ADDRESSES):
            model.take(step)
        model.gossip()
    replica = next(number for number, each in enumerate(model.servers) if each.primary == 0)
    old, new = model.servers[0], model.servers[replica]
    new.primary, old.primary = None, replica
    new.slots, old.slots = old.slots, ()

    assert cluster.next_steps(model.views(), ADDRESSES) == []
    assert cluster.unready(model.views()) is None


def test_why_a_cluster_cannot_be_used_is_said() -> None:
    views = Model().views()
    assert cluster.unready(views) == "node 0 knows 1 of 6 nodes"


def test_a_view_is_made_of_what_a_node_answers() -> None:
    info = {"cluster_state": "ok", "cluster_slots_ok": "16384"}
    seen = cluster.view(NODES_CONF, info, {"role": "slave", "master_link_status": "down"})
    assert seen.serves
    assert seen.slots_served_count == SLOTS_COUNT
    assert not seen.linked
    assert seen.own == Node(
        "e7d1eecce10fd6bb5eb35b9f", frozenset({"myself", "master"}), None, ((0, 5460), (16000, 16000))
    )
    assert [each.slots for each in seen.nodes] == [(), ((5461, 10922),), ((0, 5460), (16000, 16000))]
    assert cluster.myself("") is None


@pytest.mark.parametrize(
    ("changed", "follows"),
    [
        ({}, True),
        ({"master_link_status": "down", "master_link_down_since_seconds": 0}, True),
        ({"master_link_status": "down", "master_link_down_since_seconds": 5}, False),
        # It has not had the link since it was started, so what it holds may be old.
        ({"master_link_status": "down", "master_link_down_since_seconds": -1}, False),
        ({"master_link_status": "down"}, False),
        ({"master_sync_in_progress": 1}, False),
        ({"master_port": 7_001}, False),
        ({"role": "master"}, False),
    ],
)
def test_only_a_replica_that_has_all_writes_takes_over(changed: dict[str, object], follows: bool) -> None:
    replication: dict[str, object] = {
        "role": "slave",
        "master_host": "127.0.0.1",
        "master_port": 7_000,
        "master_link_status": "up",
        "master_sync_in_progress": 0,
    }
    assert cluster.follows(replication | changed, ADDRESSES[0][0]) is follows


def test_nodes_that_come_back_on_other_ports_find_each_other() -> None:
    ids = [each.id for each in cluster.parse(NODES_CONF)]
    addresses = {ids[0]: ADDRESSES[3], ids[1]: ADDRESSES[1]}

    moved = cluster.moved(NODES_CONF, addresses)

    before, after = NODES_CONF.splitlines(), moved.splitlines()
    assert after[0] == before[0].replace("127.0.0.1:30004@31004", "127.0.0.1:7003@17003")
    assert after[1] == before[1].replace("127.0.0.1:30002@31002", "127.0.0.1:7001@17001")
    assert after[2:] == before[2:]
    assert cluster.parse(moved) == cluster.parse(NODES_CONF)


@pytest.mark.parametrize("number", range(cluster.PRIMARIES_COUNT))
def test_slots_are_shared_out_evenly_and_whole(number: int) -> None:
    assert len(cluster.slots_of(number)) in (SLOTS_COUNT // 3, SLOTS_COUNT // 3 + 1)
    following = cluster.slots_of(number + 1).start
    assert cluster.slots_of(number).stop == following
    assert cluster.slots_of(cluster.PRIMARIES_COUNT).start == SLOTS_COUNT
