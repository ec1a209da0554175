"""Addresses: parsed, checked, and chosen so that a process finds its own again after a restart."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from services.supervisor.errors import AddressTaken, SupervisorError


class Address(NamedTuple):
    """A host and a TCP port; port 0 is one still to be chosen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Address:
        """Where a client on this machine connects: loopback, if the address stands for all of its own."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT` or `[V6]:PORT`. Raises ValueError saying what was expected."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{text!r}: expected HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8080")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


def refusal(address: Address) -> str | None:
    """Why nobody can listen on the address now, None if one can."""
    try:
        _bind(address).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the address is already in use"
        return error.strerror or str(error)
    return None


def check_free(option: str, address: Address) -> None:
    """Raises AddressTaken, naming the option to change, if nobody can listen on the address."""
    why = refusal(address)
    if why is not None:
        raise AddressTaken(option, str(address), why)


def free_ports(host: str, count: int, port_min: int, port_max: int, random: Random) -> list[int]:
    """`count` different free ports from `port_min` to `port_max`, both included.

    The range lies below the system's ephemeral one, so that no outgoing connection takes the port of a process
    between its death and its restart. Raises SupervisorError if the range has not that many.
    """
    held: list[socket.socket] = []
    try:
        for port in _shuffled(range(port_min, port_max + 1), random):
            if len(held) == count:
                break
            try:
                held.append(_bind(Address(host, port)))
            except OSError:
                continue
        if len(held) < count:
            raise SupervisorError(f"only {len(held)} of {count} ports are free on {host} in {port_min}-{port_max}")
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _shuffled(ports: range, random: Random) -> Iterable[int]:
    return random.sample(ports, len(ports))


def _bind(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        # Binding alone succeeds beside another such bound socket; listening is what tells.
        bound.listen(1)
    except OSError:
        bound.close()
        raise
    return bound
