"""How six nodes become a cluster and stay the same one over restarts. Pure: what nodes say comes in, commands go out.

The commands are found anew from what the nodes say each time, so a bootstrap that was cut short anywhere is finished by
the next one, and a cluster that is whole gets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.supervisor.ports import Address

SLOTS_COUNT: Final = 16_384
PRIMARIES_COUNT: Final = 3
NODES_COUNT: Final = 2 * PRIMARIES_COUNT

_ADDRESS_FIELD: Final = 1
# A replica notices its primary's death at once, but counts in whole seconds.
_LOST_S_MAX: Final = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One line of CLUSTER NODES, which is also the format of nodes.conf. `slots` are first and last of each range."""

    id: str
    flags: frozenset[str]
    primary_id: str | None
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """What one node says of the cluster: the nodes that it knows, whether it serves, and its link to its primary."""

    nodes: tuple[Node, ...]
    serves: bool
    slots_served_count: int
    linked: bool

    @property
    def own(self) -> Node:
        return next(each for each in self.nodes if "myself" in each.flags)

    @property
    def known(self) -> set[str]:
        return {each.id for each in self.nodes if "handshake" not in each.flags}


@dataclass(frozen=True, slots=True)
class Step:
    """A command for the node of that number."""

    number: int
    command: tuple[str, ...]


def view(nodes: str, info: Mapping[str, str], replication: Mapping[str, object]) -> View:
    """Puts together the answers of CLUSTER NODES, CLUSTER INFO and INFO replication."""
    return View(
        parse(nodes),
        info.get("cluster_state") == "ok",
        int(info.get("cluster_slots_ok", 0)),
        replication.get("role") == "master" or replication.get("master_link_status") == "up",
    )


def parse(text: str) -> tuple[Node, ...]:
    """Reads CLUSTER NODES or nodes.conf."""
    return tuple(_node(line.split()) for line in text.splitlines() if line and not line.startswith("vars "))


def myself(text: str) -> Node | None:
    """The node whose nodes.conf it is; None for one that never wrote any."""
    return next((each for each in parse(text) if "myself" in each.flags), None)


def moved(text: str, addresses: Mapping[str, tuple[Address, int]]) -> str:
    """nodes.conf with the addresses and bus ports that the nodes have now, by id."""
    return "".join(_moved(line, addresses) for line in text.splitlines(keepends=True))


def next_steps(views: Sequence[View], addresses: Sequence[tuple[Address, int]]) -> list[Step]:
    """What to tell the nodes next; nothing while they are still at it, or are done."""
    if any(each.own.id not in other.known for each in views for other in views):
        return _meetings(views, addresses)
    slots = _missing_slots(views)
    if slots:
        return slots
    return _replications(views)


def unready(views: Sequence[View]) -> str | None:
    """Why the cluster cannot be used yet; None if it can."""
    ids = {each.own.id for each in views}
    for number, each in enumerate(views):
        if not ids <= each.known:
            return f"node {number} knows {len(ids & each.known)} of {len(ids)} nodes"
        if not each.serves or each.slots_served_count < SLOTS_COUNT:
            return f"node {number} sees {each.slots_served_count:,} of {SLOTS_COUNT:,} slots served"
        if not each.linked:
            return f"node {number} has not caught up with its primary"
    if any(_is_primary(each) and not each.own.slots for each in views):
        return "not every node has slots or a primary"
    return None


def follows(replication: Mapping[str, object], primary: Address) -> bool:
    """Whether INFO replication is that of a replica which has the primary's writes, up to its death a moment ago."""
    if replication.get("role") != "slave" or replication.get("master_sync_in_progress"):
        return False
    if (replication.get("master_host"), replication.get("master_port")) != (primary.host, primary.port):
        return False
    # Negative or long where the link has never been up, or not for some time.
    lost_s = replication.get("master_link_down_since_seconds")
    return replication.get("master_link_status") == "up" or (isinstance(lost_s, int) and 0 <= lost_s <= _LOST_S_MAX)


def slots_of(number: int) -> range:
    """The slots that a new cluster's primary of that number gets."""
    return range(SLOTS_COUNT * number // PRIMARIES_COUNT, SLOTS_COUNT * (number + 1) // PRIMARIES_COUNT)


def _meetings(views: Sequence[View], addresses: Sequence[tuple[Address, int]]) -> list[Step]:
    """The first node introduces itself to all; gossip does the rest. Half a meeting is met from its other half."""
    pairs = [pair for number in range(1, len(views)) for pair in ((0, number), (number, 0))]
    return [
        Step(number, ("CLUSTER", "MEET", address.host, str(address.port), str(bus)))
        for number, other in pairs
        if views[other].own.id not in views[number].known
        for address, bus in (addresses[other],)
    ]


def _missing_slots(views: Sequence[View]) -> list[Step]:
    """Slots that nobody says are his go to the primary that a new cluster gives them to."""
    owned = {
        slot for each in views if _is_primary(each) for first, last in each.own.slots for slot in range(first, last + 1)
    }
    missing = [[slot for slot in slots_of(number) if slot not in owned] for number in range(PRIMARIES_COUNT)]
    return [
        Step(number, ("CLUSTER", "ADDSLOTSRANGE", *(str(bound) for bounds in _ranges(slots) for bound in bounds)))
        for number, slots in enumerate(missing)
        if slots
    ]


def _replications(views: Sequence[View]) -> list[Step]:
    """A primary without slots becomes the replica of the one that has the fewest."""
    replicas = {each.own.id: 0 for each in views if _is_primary(each) and each.own.slots}
    for each in views:
        if each.own.primary_id in replicas:
            replicas[each.own.primary_id] += 1
    steps = []
    for number, each in enumerate(views):
        if _is_primary(each) and not each.own.slots:
            chosen = min(replicas, key=lambda primary: replicas[primary])
            replicas[chosen] += 1
            steps.append(Step(number, ("CLUSTER", "REPLICATE", chosen)))
    return steps


def _is_primary(each: View) -> bool:
    return "master" in each.own.flags


def _node(fields: Sequence[str]) -> Node:
    node_id, _, flags, primary_id = fields[:4]
    # A slot in brackets is on its way elsewhere, and listed by itself while it is here.
    slots = tuple(_range(each) for each in fields[8:] if not each.startswith("["))
    return Node(node_id, frozenset(flags.split(",")), None if primary_id == "-" else primary_id, slots)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _ranges(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges of first and last."""
    ranges: list[tuple[int, int]] = []
    for slot in slots:
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges


def _moved(line: str, addresses: Mapping[str, tuple[Address, int]]) -> str:
    fields = line.split(" ")
    if fields[0] not in addresses:
        return line
    address, bus = addresses[fields[0]]
    # What follows the first comma is the node's host name and what it says of itself.
    _, comma, rest = fields[_ADDRESS_FIELD].partition(",")
    fields[_ADDRESS_FIELD] = f"{address.host}:{address.port}@{bus}{comma}{rest}"
    return " ".join(fields)
