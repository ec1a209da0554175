"""The door of a running mesh: a socket of its user's alone, on which it is asked to change, one JSON line each way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

import msgspec

from services.config import SupervisorSettings
from services.supervisor.errors import SupervisorError
from services.supervisor.gateways import Gateways
from services.supervisor.home import Home
from services.supervisor.shards import Shards
from services.supervisor.state import ProcessState

_BACKLOG: Final = 8


class AddShard(msgspec.Struct, frozen=True, tag="add_shard", tag_field="ask"):
    """One more shard, please."""


class DrainShard(msgspec.Struct, frozen=True, tag="drain_shard", tag_field="ask"):
    """This shard is to finish what it has open and go."""

    name: str


class RenewGateways(msgspec.Struct, frozen=True, tag="renew_gateways", tag_field="ask"):
    """The gateway's processes are to be started anew, one after the other."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The shard that came or went, or the gateway's processes; or why nothing was done."""

    process: ProcessState | None = None
    processes: list[ProcessState] = msgspec.field(default_factory=list)
    reason: str = ""
    message: str = ""


Request = AddShard | DrainShard | RenewGateways


class Door:
    """Answers requests while it is open: `async with Door(home, shards, gateways, settings)`."""

    def __init__(self, home: Home, shards: Shards, gateways: Gateways, settings: SupervisorSettings) -> None:
        self._home = home
        self._shards = shards
        self._gateways = gateways
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Door:
        listening = _listen(self._home.door)
        limit = self._settings.control_request_bytes_max
        self._server = await asyncio.start_unix_server(self._called, sock=listening, limit=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for each in self._callers:
            each.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        self._home.door.unlink(missing_ok=True)

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        self._callers.add(caller)
        try:
            writer.write(msgspec.json.encode(await self._answer(reader)) + b"\n")
            await writer.drain()
        except OSError:
            # Who asked has gone; what was asked for is done all the same.
            pass
        finally:
            self._callers.discard(caller)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        limits = self._settings
        if len(self._callers) > limits.control_connections_count_max:
            return Answer(reason="OVERLOADED", message="too many requests at once; ask again later")
        try:
            async with asyncio.timeout(limits.control_ms_max / 1_000):
                request = msgspec.json.decode(await reader.readline(), type=Request)
                return await self._do(request)
        except SupervisorError as error:
            return Answer(reason=error.reason, message=str(error))
        except TimeoutError:
            return Answer(
                reason="TIMEOUT", message=f"not done within {limits.control_ms_max} ms (supervisor.control_ms_max)"
            )
        except (ValueError, msgspec.MsgspecError) as error:
            return Answer(reason="INVALID_REQUEST", message=f"not a request that this mesh knows: {error}")

    async def _do(self, request: Request) -> Answer:
        match request:
            case AddShard():
                return Answer(process=await self._shards.add())
            case DrainShard(name):
                return Answer(process=await self._shards.drain(name))
            case RenewGateways():
                return Answer(processes=await self._gateways.renew())


def ask(home: Home, request: Request, timeout_ms: int) -> Answer:
    """Asks the mesh on a home, from another process. Raises OSError if nobody answers, or not in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout_ms / 1_000)
        with contextlib.chdir(home.door.parent):
            asking.connect(home.door.name)
        # A mesh with too many callers answers and hangs up without having read: the answer is there all the same.
        with contextlib.suppress(BrokenPipeError):
            asking.sendall(msgspec.json.encode(request) + b"\n")
        with asking.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionError("the mesh hung up; it is stopping")
    return msgspec.json.decode(line, type=Answer)


def _listen(path: Path) -> socket.socket:
    """A socket of this user's alone, in place of one that a killed mesh left."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By its short name: the whole path may be longer than a socket's name can be.
        with contextlib.chdir(path.parent):
            listening.bind(path.name)
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)  # noqa: PTH101 - of a socket
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
