"""The faults of `isthmus chaos`: one seed is one plan, every kind has its turn, and a replica is always left."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from services.cli.chaos.plan import Act, Fault, Pair, Part, Target, Topology, faults, kinds, targets

ALONE = kinds(cluster=True, together=False)
TOGETHER = kinds(cluster=True, together=True)
SEEDS = st.integers(0, 2**32)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    pairs = tuple(Pair(f"valkey-{i}", f"valkey-{i + 3}") for i in range(draw(st.integers(1, 3))))
    counts = {part: draw(st.integers(0, 4)) for part in (Part.SHARD, Part.GATEWAY, Part.INFERENCE)}
    return Topology(pairs, {part: [f"{part.value}-{i}" for i in range(count)] for part, count in counts.items()})


def plan(seed: int, count: int) -> list[Fault]:
    return list(islice(faults(seed, TOGETHER), count))


def test_a_seed_is_a_plan() -> None:
    assert plan(7, 50) == plan(7, 50)
    assert plan(7, 50) != plan(8, 50)


@given(SEEDS, st.integers(1, 4))
def test_every_kind_comes_once_a_round_and_the_number_of_shards_comes_back(seed: int, rounds: int) -> None:
    planned = [fault.kind for fault in plan(seed, rounds * len(TOGETHER))]
    for start in range(0, len(planned), len(TOGETHER)):
        of_round = planned[start : start + len(TOGETHER)]
        assert sorted(of_round) == sorted(TOGETHER)
        assert of_round.index("add-shard") < of_round.index("drain-shard")


@given(SEEDS, topologies(), st.sampled_from(sorted(TOGETHER)))
def test_a_fault_hits_what_is_there_and_each_process_once(seed: int, topology: Topology, kind: str) -> None:
    hit = targets(Fault(kind, TOGETHER[kind], seed, 0), topology)
    there = {name for names in topology.others.values() for name in names}
    there |= {name for pair in topology.pairs for name in (pair.primary, pair.replica) if name}
    named = [target.name for target in hit if target.act is not Act.ADD]
    assert len(set(named)) == len(named)
    assert set(named) <= there
    assert not hit or [target.act for target in hit] == [strike.act for strike in TOGETHER[kind]]


@given(SEEDS, topologies(), st.sampled_from(sorted(ALONE)))
def test_without_together_all_of_valkey_but_one_node_is_left(seed: int, topology: Topology, kind: str) -> None:
    hit = targets(Fault(kind, ALONE[kind], seed, 0), topology)
    nodes = {name for pair in topology.pairs for name in (pair.primary, pair.replica)}
    assert sum(target.name in nodes for target in hit) <= 1


def test_a_valkey_without_replicas_is_killed_and_never_held() -> None:
    by_kind = kinds(cluster=False, together=True)
    one = Topology((Pair("valkey"),), {Part.SHARD: ["context-store-0"], Part.GATEWAY: ["gateway-0"]})
    assert targets(Fault("primary", by_kind["primary"], 1, 0), one) == (Target(Act.KILL, "valkey"),)
    assert not any(strike.act is Act.HOLD for strikes in by_kind.values() for strike in strikes)
    assert targets(Fault("inference", by_kind["inference"], 1, 0), one) == ()
