"""Reads sessions' logs straight from Valkey, by the stored format alone, and holds them against the acknowledgements.

What the store says of itself is no proof, so nothing here goes through it or shares its code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import redis
import zstandard
from isthmus.session.v1 import fragment_pb2
from redis.cluster import ClusterNode

from services.cli.chaos.ledger import Acknowledged, Ledger
from services.valkey import address

Valkey: TypeAlias = "redis.Redis | redis.RedisCluster"


@dataclass(frozen=True, slots=True)
class Stored:
    """One live fragment."""

    sequence: int
    kind: int
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class SessionLog:
    """A session's fragments in order, without those that are void, and the sequence numbers that are missing."""

    fragments: tuple[Stored, ...]
    missing: tuple[int, ...]


@dataclass(slots=True)
class Verdict:
    """How often the logs break the promise, and each time in words."""

    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.doubled or self.reordered)


def audit(url: str, tenant: str, ledger: Ledger) -> Verdict:
    """The verdict on every session of the ledger. Raises redis.exceptions.RedisError where a log cannot be read."""
    verdict = Verdict()
    with connected(url) as valkey:
        for session, turns in ledger.acknowledged.items():
            compare(verdict, turns, ledger.unsure[session], read_log(valkey, tenant, session))
    return verdict


def connected(url: str) -> Valkey:
    """A client of one node, or of the primaries of a cluster."""
    where = address.parse(url)
    if not where.cluster:
        return redis.Redis.from_url(url)
    host, port = where.hosts[0]
    seeds = [ClusterNode(*each) for each in where.hosts]  # type: ignore[no-untyped-call]
    return redis.RedisCluster.from_url(where.node_url(host, port), startup_nodes=seeds)


def read_log(valkey: Valkey, tenant: str, session: str) -> SessionLog:
    """The whole log of a session that is not cold."""
    prefix = f"isthmus:{{{tenant}/{session}}}"
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", valkey.xrange(f"{prefix}:log"))
    void = {member.decode() for member in cast("Any", valkey.smembers(f"{prefix}:void"))}
    fragments = [_stored(int(entry.partition(b"-")[0]), fields) for entry, fields in entries]
    present = {each.sequence for each in fragments}
    missing = sorted(set(range(1, max(present, default=0) + 1)) - present)
    return SessionLog(tuple(each for each in fragments if f"t{each.turn}" not in void), tuple(missing))


def compare(verdict: Verdict, turns: Sequence[Acknowledged], unsure: Iterable[str], log: SessionLog) -> None:
    """Adds what is wrong with one session. Each message and each reply is one fragment, each text sent is unique.

    Lost is an acknowledged message or reply that is not there, or not as it was told, and a number missing in the log.
    Doubled is a text or a reply that is there again, or that nobody sent. Reordered is an acknowledged turn that comes
    before an earlier one.
    """
    said = [each for each in log.fragments if each.kind == fragment_pb2.FRAGMENT_KIND_MESSAGE]
    replied = [each for each in log.fragments if each.kind == fragment_pb2.FRAGMENT_KIND_REPLY]
    verdict.lost += len(log.missing)
    verdict.findings += [f"the log has no fragment {number}" for number in log.missing]
    _compare_said(verdict, turns, set(unsure), said)
    _compare_replied(verdict, turns, {each.turn for each in said}, replied)


def _compare_said(verdict: Verdict, turns: Sequence[Acknowledged], unsure: set[str], said: Sequence[Stored]) -> None:
    places = {each.text: each.sequence for each in reversed(said)}
    before = 0
    for turn in turns:
        place = places.get(turn.text)
        if place is None:
            verdict.lost += 1
            verdict.findings.append(f"{turn.session}: acknowledged turn {turn.turn}, {turn.text!r}, is not in the log")
            continue
        if place < before:
            verdict.reordered += 1
            verdict.findings.append(f"{turn.session}: {turn.text!r} is at {place}, before an earlier one at {before}")
        before = max(before, place)
    sent = {turn.text for turn in turns} | unsure
    for text, count in Counter(each.text for each in said).items():
        extra = count - (text in sent)
        if extra:
            verdict.doubled += extra
            verdict.findings.append(f"{text!r} is in the log {count} times")


def _compare_replied(
    verdict: Verdict, turns: Sequence[Acknowledged], said: set[int], replied: Sequence[Stored]
) -> None:
    texts = {each.turn: each.text for each in replied}
    for turn in turns:
        # A turn whose message is not there is counted already.
        if turn.turn in said and texts.get(turn.turn) != turn.reply:
            verdict.lost += 1
            verdict.findings.append(f"{turn.session}: the reply of turn {turn.turn} is not as it was acknowledged")
    for number, count in Counter(each.turn for each in replied).items():
        extra = count - (number in said)
        if extra:
            verdict.doubled += extra
            verdict.findings.append(f"turn {number} has {count} replies in the log")


def _stored(sequence: int, fields: dict[bytes, bytes]) -> Stored:
    header = fragment_pb2.Fragment.FromString(fields[b"f"])
    text = zstandard.decompress(fields[b"b"]).decode()
    return Stored(sequence, header.kind, header.turn, text)
