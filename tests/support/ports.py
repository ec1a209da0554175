"""Ports for servers that must be told theirs."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import MutableMapping
from typing import Final

# Both lie below the ports of outgoing connections, one of which could take a server's while that is dead, or even reach
# itself there. The one is for servers of tests, the other for the processes of supervisors.
_TESTS: Final = range(10_000, 20_000)
_SUPERVISORS: Final = range(20_000, 32_000)
_TRIES_MAX: Final = 1_000

# Hypothesis seeds the module's own generator.
_random: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def keep_apart(environment: MutableMapping[str, str]) -> None:
    """Gives the supervisors of each of pytest-xdist's workers ports of their own, by the settings in the environment.

    A supervisor chooses ports that are free before its processes listen there: two that start at once could meet.
    """
    if _worker()[1] > 1:
        ports = _share(_SUPERVISORS)
        environment["ISTHMUS_SUPERVISOR__PORT_MIN"] = str(ports.start)
        environment["ISTHMUS_SUPERVISOR__PORT_MAX"] = str(ports.stop - 1)


def free_port() -> int:
    """A TCP port on the loopback that is free now, and that no other test was given."""
    ports = _share(_TESTS)
    for port in (_random.choice(ports) for _ in range(_TRIES_MAX)):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port in {ports.start}-{ports.stop - 1}")


def _share(ports: range) -> range:
    number, count = _worker()
    size = len(ports) // count
    return ports[number * size : (number + 1) * size]


def _worker() -> tuple[int, int]:
    """This process's number among those that run tests side by side, and how many they are."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return number, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are dying is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
