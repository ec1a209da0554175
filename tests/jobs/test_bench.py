"""`isthmus bench jobs`: what its verdict rests on, and one small run."""

from __future__ import annotations

import json
import subprocess
import sys

from isthmus.session.v1 import fragment_pb2, turn_pb2

from services.cli.bench.jobs_plan import DEAD, DONE, DOUBLED, LOST, Found, fate, tally, verdict

DONE_TURN = turn_pb2.Turn(number=1, state=turn_pb2.Turn.STATE_DONE)
FAILED_TURN = turn_pb2.Turn(number=1, state=turn_pb2.Turn.STATE_FAILED)
OPEN_TURN = turn_pb2.Turn(number=1, state=turn_pb2.Turn.STATE_OPEN)


def fragments(*replies: bool) -> list[fragment_pb2.Fragment]:
    """A log of messages and replies, of turn 1."""
    kinds = [fragment_pb2.FRAGMENT_KIND_REPLY if each else fragment_pb2.FRAGMENT_KIND_MESSAGE for each in replies]
    return [fragment_pb2.Fragment(sequence=at, kind=kind, turn=1) for at, kind in enumerate(kinds, 1)]


def test_what_became_of_a_job_is_told_by_its_session() -> None:
    whole = fragments(False, True)
    assert fate(Found([DONE_TURN], whole)) == DONE
    assert fate(Found([DONE_TURN, DONE_TURN], whole)) == DOUBLED
    assert fate(Found([DONE_TURN], fragments(False, False, True))) == DOUBLED
    assert fate(Found([FAILED_TURN], [], "UPSTREAM_UNAVAILABLE")) == DEAD
    assert fate(Found([FAILED_TURN], [])) == LOST
    assert fate(Found([OPEN_TURN], fragments(False))) == LOST
    assert fate(Found([], [])) == LOST


def test_the_verdict_names_what_must_not_be() -> None:
    assert verdict({"jobs": 3, **tally([DONE, DONE, DEAD])}) == []
    assert verdict({"jobs": 2, **tally([LOST, DOUBLED])}) == ["1 jobs were doubled", "1 jobs were lost"]
    assert verdict({"jobs": 2, **tally([DONE])}) == ["2 jobs were submitted and 1 are accounted for"]


def test_a_small_run_loses_and_doubles_nothing() -> None:
    argv = [sys.executable, "-m", "services.cli", "bench", "jobs", "--json"]
    argv += ["--count", "20", "--gateways", "2", "--kill-every-s", "3"]
    ended = subprocess.run(argv, capture_output=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    figures = json.loads(ended.stdout)
    assert figures["done"] + figures["dead"] == 20
    assert (figures["doubled"], figures["lost"], figures["problems"]) == (0, 0, [])
