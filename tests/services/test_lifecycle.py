"""One lifecycle: which state may follow which, and what signals do to a room's process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from itertools import product

import pytest

from services.lifecycle import TRANSITIONS, Lifecycle, RoomContext, State, run_room
from tests.services.rooms import EchoRoom

FLAGS = ("--member", "echo-0", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:8080")


def at(state: State) -> Lifecycle:
    lifecycle = Lifecycle()
    if state is not State.STARTING:
        lifecycle.move(state)
    return lifecycle


@pytest.mark.parametrize(("state", "following"), list(product(State, State)))
def test_only_the_table_moves_a_room(state: State, following: State) -> None:
    lifecycle, seen = at(state), list[State]()
    lifecycle.watch(seen.append)
    if following in TRANSITIONS[state]:
        lifecycle.move(following)
        assert (lifecycle.state, seen) == (following, [following])
    elif following is state:
        lifecycle.move(following)
        assert seen == []
    else:
        with pytest.raises(ValueError, match=f"{state.value} cannot become {following.value}"):
            lifecycle.move(following)
        assert (lifecycle.state, seen) == (state, [])


class Process:
    """A room's process, its lines, and its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, wrong: str = "", **environment: str) -> Process:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "tests.services.rooms", *FLAGS)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=pipe, stderr=pipe, env={"PROBE": wrong, **environment}
        )
        return cls(process)

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode().strip()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> tuple[int, str, list[str]]:
        """Exit code, standard error, and the lines not read yet."""
        out, err = await asyncio.wait_for(self._process.communicate(), 60)
        assert self._process.returncode is not None
        return self._process.returncode, err.decode(), out.decode().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_stops_with_exit_0(number: signal.Signals) -> None:
    process = await Process.start()
    assert await process.line() == "start"
    assert await process.line() == "ready echo-0 127.0.0.1:0 127.0.0.1:8080"
    process.send(number)
    code, logged, rest = await process.end()
    assert (code, rest) == (0, ["drain", "stop"])
    states = [json.loads(line) for line in logged.splitlines()]
    assert [each["state"] for each in states] == ["ready", "draining", "stopped"]
    assert {(each["room"], each["member"], each["level"]) for each in states} == {("echo", "echo-0", "info")}


async def test_a_second_signal_stops_at_once() -> None:
    process = await Process.start("drain-hangs")
    while await process.line() != "ready echo-0 127.0.0.1:0 127.0.0.1:8080":
        pass
    process.send(signal.SIGTERM)
    assert await process.line() == "drain"
    process.send(signal.SIGTERM)
    code, _, rest = await process.end()
    assert (code, rest) == (0, ["stop"])


async def test_a_room_told_to_go_while_it_warms_does_not_finish_warming() -> None:
    process = await Process.start("start-hangs")
    assert await process.line() == "start"
    process.send(signal.SIGTERM)
    code, _, rest = await process.end()
    assert (code, rest) == (0, ["stop"])


async def test_a_room_that_cannot_start_stops_and_says_why() -> None:
    process = await Process.start("start-fails")
    code, logged, rest = await process.end()
    assert (code, rest) == (1, ["start", "stop"])
    assert "cannot warm" in logged


def test_wrong_settings_end_the_process_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISTHMUS_MESH__SHARD", "2")
    assert run_room(EchoRoom, FLAGS) == 2
    assert "mesh.shard: unknown key" in capsys.readouterr().err


def test_a_weight_given_as_a_flag_goes_before_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_MEMBERSHIP__WEIGHT", "1.5")
    monkeypatch.setenv("ISTHMUS_MEMBERSHIP__HEARTBEAT_INTERVAL_MS", "77")
    seen = []

    def factory(context: RoomContext) -> EchoRoom:
        seen.append(context.settings.membership)
        raise LookupError("this is far enough")

    for flags in ([], ["--weight", "2.5"]):
        with pytest.raises(LookupError, match="far enough"):
            run_room(factory, [*FLAGS, *flags])
    assert [(one.weight, one.heartbeat_interval_ms) for one in seen] == [(1.5, 77), (2.5, 77)]
