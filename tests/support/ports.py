"""Ports for servers that must be told theirs."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below the ports of outgoing connections, one of which could take a server's while that is dead, or even reach itself
# there; and beside those that a supervisor gives to its processes.
_PORTS: Final = range(10_000, 20_000)
_TRIES_MAX: Final = 1_000

# Hypothesis seeds the module's own generator, and two processes that test side by side must not draw alike.
_random: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def free_port() -> int:
    """A TCP port on the loopback that is free now, and that nobody else in this process was given."""
    for port in (_random.choice(_PORTS) for _ in range(_TRIES_MAX)):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port in {_PORTS.start}-{_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are dying is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
